"""The process between an embedded server and the processes that use it.

Run as a script, in the server's folder, by ``asynqpy.embedded``:

    python -I -S embedded_watchdog.py <server binary> <preferred port or 0> lasting|temporary

It starts the server as its child, writes ``address``, and sleeps in the kernel until it is granted
the exclusive lock of ``users.lock``. Every user holds that lock shared, and the kernel lets go for
those who are killed, so the grant means that no user is left. Then it stops the server and exits.

Files of the folder, all locked with ``flock``:

- ``start.lock``   exclusive while a user joins: starters go one at a time.
- ``users.lock``   shared by every user; exclusive by a watchdog that stops its server, so that
  whoever comes in that moment waits and then starts a new one.
- ``address``      exclusive by the watchdog all its life; once the server answers, two lines: its
  port and the watchdog's pid. An unlocked one is stale, whatever it says: its watchdog is dead.
- ``server.log``   what the server and its watchdog said since the last start.

Stdlib only, and nothing of asynqpy: it is run without the package's path.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

if sys.platform != "win32":
    import fcntl

START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
ADDRESS = "address"
LOG = "server.log"

HOST = "127.0.0.1"
POLL_INTERVAL = 0.005  # seconds between looks at a server that starts or stops
ANSWER_TIMEOUT = 1.0  # seconds of a server's silence
STOP_TIMEOUT = 5.0  # seconds that a server has to end before it is killed
_ATTEMPTS = 5  # somebody may take a port between its choice and the server's bind
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextlib.contextmanager
def opened_lock(path: str | os.PathLike[str], *, create: bool = True) -> Iterator[int]:
    """A descriptor to lock: not inherited by programs that are run, but by forks."""
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, exclusive: bool) -> None:
    """Wait for the lock; closing the last copy of the descriptor releases it."""
    fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)


def try_lock(descriptor: int, *, exclusive: bool) -> bool:
    """Take the lock if it is free, and say whether."""
    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_watched(address: int) -> bool:
    """Whether a watchdog lives that holds this ``address`` file."""
    if not try_lock(address, exclusive=False):
        return True
    fcntl.flock(address, fcntl.LOCK_UN)
    return False


def read_port(address: int) -> int | None:
    """The port that ``address`` tells, or None while it is empty or half written."""
    written = re.fullmatch(rb"(\d{1,5})\n\d+\n", os.pread(address, 64, 0))
    return int(written[1]) if written else None


def ask(port: int, *commands: str) -> bytes:
    """The raw RESP2 answers to some commands without arguments to quote.

    What came until then if the server goes away or is silent for too long; empty if none is there.
    """
    request = "".join(f"{command}\r\n" for command in (*commands, "QUIT"))
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, port), timeout=ANSWER_TIMEOUT) as connection,
    ):
        connection.sendall(request.encode())
        while part := connection.recv(4096):
            answer += part
    return answer.removesuffix(b"+OK\r\n")  # of QUIT


def _serves_here(port: int) -> bool:
    """Whether the server on this port has loaded its data, and is the one of this folder.

    Another Redis may have got the port first: it would answer PING just as well.
    """
    folder = os.fsencode(os.getcwd())
    expected = b"*2\r\n$3\r\ndir\r\n$%d\r\n%s\r\n+PONG\r\n" % (len(folder), folder)
    return ask(port, "CONFIG GET dir", "PING") == expected


def _ports(preferred: int) -> Iterator[int]:
    """The ports to try: a dead server's first, so that the addresses given out are good again."""
    if preferred:
        yield preferred
    for _ in range(_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        yield port


def _end_with_watchdog() -> Callable[[], None] | None:
    """What the server's process does before it becomes the server, where the kernel can do it."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes
    except ImportError:  # a Python built without libffi
        return None
    prctl, watchdog = ctypes.CDLL(None).prctl, os.getpid()

    def ask_for_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != watchdog:  # it died before the kernel was asked
            os._exit(1)

    return ask_for_death_signal


def _start_server(binary: str, port: int, *, temporary: bool) -> subprocess.Popen[bytes]:
    """The server in this folder, on its way up; it says what it has to say to our own output."""
    options = {
        "bind": HOST,
        "port": str(port),
        "daemonize": "no",
        "save": "",
        "appendonly": "no" if temporary else "yes",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        # No other thread runs yet, which is what preexec_fn asks for.
        return subprocess.Popen([binary, *arguments], preexec_fn=_end_with_watchdog())
    except OSError as error:
        sys.exit(f"cannot run it: {error}")


def _becomes_ready(server: subprocess.Popen[bytes], port: int, users: int) -> bool:
    """Wait until the server answers; False if it ended or if nobody waits for it any more."""
    while server.poll() is None:
        if _serves_here(port):
            return True
        if try_lock(users, exclusive=True):
            _stop(server)
            return False
        time.sleep(POLL_INTERVAL)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _stop_orphan(port: int) -> None:
    """End a server of this folder that outlived its watchdog: two must not write one AOF.

    It happens where the kernel has no parent-death signal, as on macOS.
    """
    if port and _serves_here(port):
        _shut_down(port)


def _shut_down(port: int) -> None:
    """Ask the server to end; the append-only file, if there is one, is written and synced."""
    ask(port, "SHUTDOWN NOSAVE")


def _watch(server: subprocess.Popen[bytes], port: int, users: int) -> None:
    """Sleep until the server has ended: by itself, or stopped because no user is left."""

    def stop_after_last_user() -> None:
        lock(users, exclusive=True)
        _shut_down(port)  # at once; a signal is seen by the server's next timer only
        server.terminate()
        time.sleep(STOP_TIMEOUT)  # this thread does not outlive the server
        server.kill()

    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=stop_after_last_user, daemon=True).start()
    server.wait()


def _run(binary: str, preferred_port: int, address: int, users: int, *, temporary: bool) -> bool:
    """Start the server, tell its address and watch it; False if it could not be started."""
    _stop_orphan(preferred_port)
    for port in _ports(preferred_port):
        server = _start_server(binary, port, temporary=temporary)
        if _becomes_ready(server, port, users):
            os.pwrite(address, f"{port}\n{os.getpid()}\n".encode(), 0)
            _watch(server, port, users)
            return True
        if try_lock(users, exclusive=True):
            break
    return False


def _clean_up(users: int, *, started: bool, temporary: bool) -> None:
    """Remove what must not be found by the next user.

    A server that ended while it had users leaves its address: the next one prefers that port. One
    that did not start leaves its folder to the user who waits for it, and wants to read the log.
    """
    unused = try_lock(users, exclusive=True)
    if temporary and (started or unused):
        import shutil  # not at the top: each start would wait for it

        folder = os.getcwd()
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    elif unused:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(ADDRESS)


def main(binary: str, preferred_port: str, mode: str) -> None:
    """Lock ``address`` and return to the starter; go on in the background as nobody's child.

    So the starter has no child to wait for, and from the first moment on it sees by the lock
    whether the watchdog lives.
    """
    # Open to the end of the process: who sees it unlocked finds the last word in the log.
    address, users = os.open(ADDRESS, os.O_RDWR), os.open(USERS_LOCK, os.O_RDWR)
    lock(address, exclusive=True)  # free already, but for the moment that is_watched takes
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # inherited from the starter's thread
    temporary = mode == "temporary"
    started = False
    try:
        started = _run(binary, int(preferred_port), address, users, temporary=temporary)
    finally:
        _clean_up(users, started=started, temporary=temporary)


if __name__ == "__main__":
    main(*sys.argv[1:])
