"""One of the processes of a supervisor: a place in which one child runs after another."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from io import FileIO
from typing import NamedTuple

from asynqpy.supervisor.lines import reading_lines
from asynqpy.supervisor.reports import (
    STOP,
    Pace,
    ProcessInfo,
    ProcessState,
    Report,
    decode,
    pace,
    stop_limit,
)

logger = logging.getLogger("asynqpy.supervisor")

#: Called with the number of a process and a line that it wrote to stdout or stderr.
OnOutput = Callable[[int, str], None]

#: What runs in a child.
_PROGRAM = "asynqpy.supervisor.child"


class End(NamedTuple):
    """How a child ended: after ``lived`` s, whether it ever had a server, and why its target was ``refused``, if so."""

    how: str
    lived: float
    was_ready: bool
    refused: str


class Process:
    """Starts a child, listens to it and waits for its end; again, when it is asked to.

    ``on_ready`` is called when a child has its first server. Children inherit stdout and stderr, unless ``on_output``
    is there to take the lines. Used on one event loop only.
    """

    def __init__(
        self,
        number: int,
        target: str,
        *,
        on_ready: Callable[[Process], None],
        on_output: OnOutput | None = None,
    ) -> None:
        self._number = number
        self._target = target
        self._on_ready = on_ready
        self._on_output = on_output
        self._starts = 0
        self._terminations = 0
        self._is_paused = False
        self._limit: asyncio.TimerHandle | None = None
        self._forget()
        self.wait(0.0)

    def __str__(self) -> str:
        return f"process {self._number}" + (f" (pid {self._pid})" if self._pid else "")

    def _forget(self) -> None:
        self._pid: int | None = None
        self._line: socket.socket | None = None
        self._is_ready = False
        self._report = Report()
        self._pace = Pace()

    @property
    def info(self) -> ProcessInfo:
        """How it does."""
        now = time.monotonic()
        is_waiting = self._state is ProcessState.WAITING
        return ProcessInfo(
            number=self._number,
            pid=self._pid,
            state=self._state,
            seconds=max(0.0, self._due - now) if is_waiting else now - self._since,
            restarts=max(0, self._starts - 1),
            running=self._report.running,
            concurrency=self._report.concurrency,
            processed=self._report.ended,
            per_second=self._pace.ended,
            cpu=self._pace.cpu,
        )

    async def run_once(self) -> End:
        """Start a child and return when it has ended."""
        started = time.monotonic()
        self._starts += 1
        self._enter(ProcessState.STARTING)
        try:
            how = await self._live()
            lived = time.monotonic() - started
            return End(how, lived, self._is_ready, self._report.refused)
        except OSError as error:
            return End(f"{self} could not be started: {error}", 0.0, False, "")
        finally:
            if self._limit is not None:
                self._limit.cancel()
            self._forget()

    async def _live(self) -> str:
        ours, theirs = socket.socketpair()
        with theirs:
            async with (
                reading_lines(ours, self._hear, self._tell_by_signal),
                self._output() as output,
            ):
                try:
                    child = await self._spawn(theirs, output)
                finally:
                    # The child alone holds them now, so that its end is theirs.
                    theirs.close()
                    if output is not None:
                        output.close()
                self._pid, self._line = child.pid, ours
                if self._terminations:
                    self._stop_child()
                how = f"{self} ended with {_told(await child.wait())}"
                self._pid = None  # free for others
        return how

    @asynccontextmanager
    async def _output(self) -> AsyncIterator[FileIO | None]:
        """What the child writes to; ``None`` to inherit."""
        if self._on_output is None:
            yield None
            return
        readable, writable = os.pipe()
        with FileIO(writable, "w") as output:
            async with reading_lines(FileIO(readable), self._pass_on):
                yield output

    def _pass_on(self, line: bytes) -> None:
        if self._on_output is None:
            return
        try:
            self._on_output(self._number, line.decode(errors="replace").rstrip("\r"))
        except Exception:  # would end the pipe, and with it each handler that prints
            logger.exception("on_output failed for a line of %s", str(self))

    async def _spawn(
        self, line: socket.socket, output: FileIO | None
    ) -> asyncio.subprocess.Process:
        environment = {**os.environ, "ASYNQPY_PROCESS": str(self._number)}
        if output is not None:
            environment.setdefault("PYTHONUNBUFFERED", "1")  # no terminal, but somebody looks
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _PROGRAM),
            *(str(line.fileno()), self._log_prefix(), self._target),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=[line.fileno()],
            # Ctrl-C reaches all processes of a session. We pass it on; two of them would abort the handlers.
            start_new_session=True,
        )

    def _log_prefix(self) -> str:
        """Whoever takes the output is told the number with each line."""
        return f"[{self._number}] " if self._on_output is None else ""

    def _hear(self, line: bytes) -> None:
        report = decode(line)
        is_awake = report.state is not ProcessState.STARTING
        if self._is_ready and not is_awake:
            # Its servers are gone, and it is about to end.
            if self._limit is None and self._state is not ProcessState.STOPPING:
                self._enter(ProcessState.STOPPING)
            return
        if self._report.at:
            self._pace = pace(self._report, report)
        self._report = report
        if self._limit is None and self._state is not report.state:
            self._enter(report.state)  # once told to stop, a child is stopping
        if is_awake and not self._is_ready:
            self._is_ready = True
            if self._is_paused:
                self._send(signal.SIGTSTP)
            self._on_ready(self)

    def wait(self, delay: float) -> None:
        """The next child is to be started in so many seconds."""
        self._enter(ProcessState.WAITING)
        self._due = self._since + delay

    def finish(self) -> None:
        """There will be no other child."""
        self._enter(ProcessState.ENDED)

    def pause(self) -> None:
        """Have the child take no more tasks, as soon as it can."""
        self._is_paused = True
        if self._is_ready:
            self._send(signal.SIGTSTP)

    def terminate(self) -> None:
        """Have the child shut down; have it abort its handlers the second time, kill it the third."""
        self._terminations += 1
        if self._pid is not None:
            self._stop_child()

    def _stop_child(self) -> None:
        if self._terminations < 3:
            self._tell_to_stop()
        else:
            self._send(signal.SIGKILL)
        self._send(signal.SIGCONT)  # one that is halted hears nothing else
        if self._state is not ProcessState.STOPPING:
            self._enter(ProcessState.STOPPING)
        if self._limit is None:
            seconds = stop_limit(self._report)
            self._limit = asyncio.get_running_loop().call_later(seconds, self._lose_patience)

    def _tell_to_stop(self) -> None:
        """The child signals itself then. So it can tell that signal from one which came to all processes alike."""
        try:
            assert self._line is not None
            self._line.send(STOP)
        except OSError:  # its end is closed
            self._tell_by_signal()

    def _tell_by_signal(self) -> None:
        """Also where it was told otherwise, and became another program before it had read that."""
        self._send(signal.SIGTERM)

    def _lose_patience(self) -> None:
        logger.error("%s has not stopped in time and is killed", str(self))
        self._send(signal.SIGKILL)

    def _send(self, signum: signal.Signals) -> None:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signum)

    def _enter(self, state: ProcessState) -> None:
        self._state, self._since = state, time.monotonic()


def _told(status: int) -> str:
    """An exit status in words; negative ones are signals."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
