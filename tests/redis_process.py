"""Real Redis servers for tests, each in a temporary folder; ``tests/topologies`` puts them together.

The binary is the one that ``embedded://`` would run. Processes end with the test, and on Linux also
when the test run is killed. Start them from the main thread: they end with the thread that did.
"""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from asynqpy.embedded import find_server

HOST = "127.0.0.1"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_BUS_OFFSET = 10_000  # where a cluster's node listens for the others, from its port


class RedisProcess:
    """A running server. A context manager that stops it.

    ``ask_with`` are options of redis-py with which ``ask`` connects: a password, TLS.
    """

    def __init__(
        self,
        args: list[str],
        port: int,
        cwd: Path | TemporaryDirectory[str],
        ask_with: Mapping[str, Any] | None = None,
    ) -> None:
        self.port = port
        self._args = args
        self._cwd = cwd
        self._ask_with = dict(ask_with or {})
        self._log = self.folder / f"redis-{port}.log"
        self._process = self._launch(args)
        self._is_paused = False

    def _launch(self, args: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [find_server(), *args],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    @property
    def folder(self) -> Path:
        return self._cwd if isinstance(self._cwd, Path) else Path(self._cwd.name)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def ask(self, *command: str) -> Any:
        """What the server answers."""
        once = Retry(NoBackoff(), 0)
        with redis.Redis(HOST, self.port, protocol=2, retry=once, **self._ask_with) as client:
            return client.execute_command(*command)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def is_answering(self) -> bool:
        """Neither dead nor paused."""
        return self.is_running and not self._is_paused

    def wait_until_ready(self) -> None:
        wait_for(self._answers, lambda: self._log.read_text(errors="replace"))

    def _answers(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"the server did not start:\n{self._log.read_text()}")
        try:
            # Not somebody else's, who was faster to take the port.
            return bool(self.ask("INFO", "server")["process_id"] == self.pid)
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def start_again(self, *more_args: str) -> None:
        """After its end: on the same port, with the same arguments and what it has on disk.

        Its folder must be one that was given.
        """
        if self.is_running or isinstance(self._cwd, TemporaryDirectory):
            raise RuntimeError("it runs, or its folder has gone with it")
        self._process = self._launch([*self._args, *more_args])
        self.wait_until_ready()

    def pause(self) -> None:
        """Let it neither answer nor hang up, until ``resume``."""
        self._process.send_signal(signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self.resume()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if isinstance(self._cwd, TemporaryDirectory):
            self._cwd.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_redis(
    *extra_args: str,
    port: int | None = None,
    cwd: Path | None = None,
    ask_with: Mapping[str, Any] | None = None,
) -> RedisProcess:
    """A server that keeps nothing on disk, unless ``extra_args`` say otherwise."""
    port = port or free_port()
    args = [*redis_args(port), *extra_args]
    return ready(RedisProcess(args, port, cwd or temporary_folder(), ask_with))


def redis_args(port: int) -> list[str]:
    """Those of a server that keeps nothing on disk; of two settings of a kind, the later one holds."""
    return ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]


def temporary_folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="asynqpy-test-")


def ready(process: _Process) -> _Process:
    """The same, once it answers; when it does not start, it is ended and the reason raised."""
    try:
        process.wait_until_ready()
    except BaseException:
        process.kill()
        raise
    return process


_Process = TypeVar("_Process", bound=RedisProcess)


def free_port() -> int:
    """A port that is free, with its cluster bus; outside of those the kernel gives to clients."""
    for port in random.sample(range(10_000, 20_000), 200):
        if _is_free(port) and _is_free(port + _BUS_OFFSET):
            return port
    raise RuntimeError("no free port found")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return listener.connect_ex((HOST, port)) != 0


def wait_for(
    condition: Callable[[], bool], explain: Callable[[], str], within: float = _START_TIMEOUT
) -> None:
    """Return once the condition holds; ``TimeoutError`` with the explanation after ``within`` s."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(explain())
        time.sleep(0.01)


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
