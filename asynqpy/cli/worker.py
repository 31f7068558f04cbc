"""``asynqpy worker``: a program's worker processes, and a line on each of them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from asynqpy.cli.worker_view import Screen
from asynqpy.errors import ProcessStartError
from asynqpy.supervisor.supervisor import Supervisor

#: Seconds between two pictures.
_REFRESH = 0.25

#: Exit statuses: the processes do not start; there is no such target; Ctrl-C before there was anything to stop.
_FAILED, _WRONG_TARGET, _INTERRUPTED = 1, 2, 130


def run_worker(console: Console, target: str, processes: int) -> int:
    """Run the processes until they are told to stop, and answer the exit status. 0 ``processes`` is one per core."""
    try:
        with _log_of_processes():
            asyncio.run(_run(console, target, processes or cores()))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ValueError as error:
        print(f"asynqpy: {error}", file=sys.stderr)
        return _WRONG_TARGET
    except ProcessStartError as error:
        print(f"asynqpy: {error}", file=sys.stderr)
        return _FAILED
    return 0


def cores() -> int:
    """The cores that this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def _run(console: Console, target: str, processes: int) -> None:
    if not console.is_terminal or console.is_dumb_terminal or not sys.stderr.isatty():
        await Supervisor(target, processes=processes).run()
        return
    with Screen(console) as screen:
        # What is written past the screen would land in the middle of it.
        supervisor = Supervisor(target, processes=processes, on_output=screen.print)
        await _watch(supervisor, screen)


async def _watch(supervisor: Supervisor, screen: Screen) -> None:
    """Keep the screen up to date until the processes have ended; end them when it cannot go on."""
    running = asyncio.create_task(supervisor.run())
    try:
        while not running.done():
            screen.show(supervisor.processes)
            await asyncio.wait([running], timeout=_REFRESH)
    finally:
        if not running.done():
            supervisor.terminate()
            await asyncio.wait([running])
    await running


@contextmanager
def _log_of_processes() -> Iterator[None]:
    """What becomes of the processes goes to stderr. How they themselves log is up to their program."""
    logger = logging.getLogger("asynqpy.supervisor")
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s asynqpy: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Stderr(logging.Handler):
    """Prints to whatever stderr is now: a live screen puts its own there, which scrolls above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # such as nobody reading any more: no reason to lose the processes
            self.handleError(record)
