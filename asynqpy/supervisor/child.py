"""What runs in each process of a supervisor.

    python -m asynqpy.supervisor.child <descriptor> <log prefix> <module:function>

The descriptor is one end of a pair of sockets whose other end the supervisor alone has: reports go there, and each byte
that comes back means to stop. When it is closed the supervisor is dead, however it died. Then the process stops as if
it had been told to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

from asynqpy.server.census import census
from asynqpy.server.signals import relay
from asynqpy.supervisor.reports import Report, encode, report_on, stop_limit
from asynqpy.supervisor.target import TargetError, load_target

#: Seconds between reports.
_INTERVAL = 1.0

#: Exit status for a target that cannot be run.
REFUSED = 2

#: Not on Windows.
_SIGTSTP = getattr(signal, "SIGTSTP", None)

logger = logging.getLogger("asynqpy.supervisor")


class Line:
    """The way to the supervisor."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._mutex = threading.Lock()

    def tell(self, report: Report) -> None:
        """Send a report, unless nobody hears it: the supervisor is gone, or is halted and has enough to read."""
        try:
            with self._mutex:
                if self._is_ready(select.POLLOUT, 0):
                    self._connection.sendall(encode(report))
        except OSError:
            pass

    def tell_how_we_do(self) -> None:
        self.tell(_report())

    def keep_talking(self) -> None:
        """Report each second, and stop as told, until the supervisor is gone: in a thread, as loops may block."""
        while True:
            if not self._is_ready(select.POLLIN, _INTERVAL):
                self.tell_how_we_do()
                continue
            words = self._listen()
            if not words:
                break
            for _ in words:
                relay.stop()
        _end()

    def _is_ready(self, event: int, seconds: float) -> bool:
        """Whether it can be read or written within so many seconds, or has ended."""
        waiting = select.poll()
        waiting.register(self._connection, event)
        return bool(waiting.poll(1000 * seconds))

    def _listen(self) -> bytes:
        """What has come; nothing when the supervisor is gone."""
        try:
            return self._connection.recv(64)
        except OSError:  # it has not read all that we told
            return b""


def _report() -> Report:
    return report_on(census.take(), cpu_seconds=time.process_time(), at=time.monotonic())


def _end() -> None:
    """Stop as the supervisor would have it, and in any case."""
    if not relay.stops:  # a second time would abort the handlers
        relay.stop()
    logger.warning("process %d has lost its supervisor and stops", os.getpid())
    time.sleep(stop_limit(_report()))  # does not outlive the process
    os.kill(os.getpid(), signal.SIGKILL)


def main(descriptor: str, log_prefix: str, target: str) -> None:
    """Run the target as a process of its own, and exit with its status."""
    if _SIGTSTP is not None:
        # Until a server obeys it: by itself it would halt the process. The supervisor repeats it then.
        signal.signal(_SIGTSTP, signal.SIG_IGN)
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    line = Line(connection)
    threading.Thread(target=line.keep_talking, name="asynqpy:line", daemon=True).start()
    census.on_enlisted = line.tell_how_we_do
    _prefix_log(log_prefix)
    try:
        entry_point = load_target(target)
    except TargetError as error:
        line.tell(Report(refused=str(error)))
        sys.exit(REFUSED)
    _run(entry_point())


def _run(main: Coroutine[Any, Any, object]) -> None:
    """On uvloop, where it is installed: who installs the extra wants its speed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _prefix_log(prefix: str) -> None:
    """So that it says which process it is of, as long as the program has not set logging up."""
    if logging.lastResort is not None:
        text = f"{prefix}%(levelname)s %(name)s: %(message)s"
        logging.lastResort.setFormatter(logging.Formatter(text))


if __name__ == "__main__":
    # As `python -m` does by default, also where that is switched off.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    main(*sys.argv[1:])
