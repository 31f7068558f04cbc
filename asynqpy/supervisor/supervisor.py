"""The Supervisor: several processes of one worker program, started, watched, started again and stopped."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from asynqpy.errors import ProcessStartError
from asynqpy.server.signals import obeying_signals
from asynqpy.supervisor.back_off import BackOff
from asynqpy.supervisor.process import End, OnOutput, Process
from asynqpy.supervisor.reports import ProcessInfo
from asynqpy.supervisor.target import TargetError, check_target

logger = logging.getLogger("asynqpy.supervisor")

#: What a signal to stop does, the first to the third.
_TERMINATIONS = (
    "stopping; a second signal aborts the handlers",
    "aborting the handlers; a third signal kills the processes",
    "killing the processes",
)

#: Starts in a row of one process that may fail before any has worked.
_STARTS = 3


class Supervisor:
    """Runs ``processes`` worker processes of the same program, for more than one core.

        await Supervisor("shop.worker:main", processes=4).run()

    ``target`` is ``package.module:function``: an ``async def`` without arguments that runs a ``Server``, such as
    ``await Server(...).run(mux)``. Each process is a fresh interpreter that imports it, with the current directory on
    its path, and runs it by ``asyncio.run``, or by ``uvloop.run`` where that is installed. So each has a server of its
    own, and ``concurrency`` is that of one process. In its environment ``ASYNQPY_PROCESS`` is its number, from 1.

    A process that ends, however, is started again: at once the first time, then with a delay that doubles from 1 to
    30 s until one has lived for a minute. Should the supervisor die, its processes shut down.

    ``on_output(number, line)`` gets what the processes write; without it they share stdout and stderr of this one.

    Raises ``ValueError`` or ``TypeError`` for arguments that make no sense.
    """

    def __init__(
        self, target: str, *, processes: int = 1, on_output: OnOutput | None = None
    ) -> None:
        if not isinstance(processes, int) or isinstance(processes, bool):
            raise TypeError(f"processes must be an int, not {type(processes).__name__}")
        if processes < 1:
            raise ValueError(f"processes must be 1 or more, not {processes}")
        check_target(target)
        self._target = target
        self._processes = [
            Process(number, target, on_ready=self._note_ready, on_output=on_output)
            for number in range(1, processes + 1)
        ]
        self._closing = asyncio.Event()
        self._terminations = 0
        self._was_run = False
        self._has_worked = False
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"<Supervisor of {len(self._processes)} x {self._target}>"

    @property
    def processes(self) -> list[ProcessInfo]:
        """How each process does."""
        return [process.info for process in self._processes]

    async def run(self) -> None:
        """Keep the processes running until SIGTERM or SIGINT, then return when all of them have ended.

        Signals are passed on. SIGTERM and SIGINT shut the servers down; the second aborts their handlers, the third
        kills the processes. A process that has not ended 10 s after the longest ``shutdown_timeout`` of its servers is
        killed in any case. After SIGTSTP servers take no more tasks, and what ends is not started again. Signals are
        obeyed in the main thread only; elsewhere ``terminate`` does the same.

        Raises ``ValueError`` when there is no such target, and ``ProcessStartError`` when a process ended three times
        without having started a server, and no other has either; all are stopped before. When it is cancelled, it
        stops them too. Runs once: ``RuntimeError`` after that.
        """
        if self._was_run:
            raise RuntimeError("a supervisor runs once; make a new one")
        self._was_run = True
        async with obeying_signals(terminate=self.terminate, pause=self.pause):
            keepers = [asyncio.create_task(self._keep(process)) for process in self._processes]
            try:
                await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                await self._end(keepers)
        for keeper in keepers:
            keeper.result()
        if self._error is not None:
            raise self._error

    def terminate(self) -> None:
        """Shut the processes down; abort their handlers the second time, kill them the third."""
        self._closing.set()
        how = _TERMINATIONS[min(self._terminations, len(_TERMINATIONS) - 1)]
        logger.info("%s", how)
        self._terminations += 1
        for process in self._processes:
            process.terminate()

    async def pause(self) -> None:
        """Have the servers take no more tasks; those that run go on. What ends is not started again."""
        self._closing.set()
        logger.info("taking no more tasks")
        for process in self._processes:
            process.pause()

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        """Stop what is left when the run was cancelled, or a fault of ours has ended a keeper."""
        if not all(keeper.done() for keeper in keepers):
            self.terminate()
        while not all(keeper.done() for keeper in keepers):
            with suppress(asyncio.CancelledError):
                await asyncio.wait(keepers)

    async def _keep(self, process: Process) -> None:
        back_off, failed_starts = BackOff(), 0
        while not self._closing.is_set():
            end = await process.run_once()
            if self._closing.is_set():
                logger.info("%s", end.how)
                break
            failed_starts = 0 if end.was_ready else failed_starts + 1
            if error := self._hopeless(end, failed_starts):
                self._give_up(error)
                break
            delay = back_off.after(end.lived)
            when = f"in {delay:.1f} s" if delay else "now"
            logger.warning("%s%s; it is started again %s", end.how, _why(end), when)
            process.wait(delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), delay)
        process.finish()

    def _note_ready(self, process: Process) -> None:
        self._has_worked = True
        logger.info("%s works", str(process))

    def _hopeless(self, end: End, failed_starts: int) -> Exception | None:
        """The error for a program that will not start, whatever we do. One that has worked may work again."""
        if self._has_worked:
            return None
        if end.refused:
            return TargetError(end.refused)
        if failed_starts < _STARTS:
            return None
        return ProcessStartError(
            f"{self._target} does not start a server: {end.how}, the last of {_STARTS} in a row"
        )

    def _give_up(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self.terminate()


def _why(end: End) -> str:
    return f" ({end.refused})" if end.refused else ""
