"""Turns under way: while Redis works on one, the handlers that another brought run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from asynqpy.errors import BrokerError
from asynqpy.server.service import CANCEL_AGAIN

logger = logging.getLogger("asynqpy.server")


class Turns:
    """Turns that nobody waits for. ``wake`` is called as one ends."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._under_way: set[asyncio.Task[object]] = set()
        self._failures: list[BaseException] = []

    def __len__(self) -> int:
        return len(self._under_way)

    async def start(self, turn: Coroutine[Any, Any, object]) -> None:
        """Have a turn carried out, as far as its first wait before this returns."""
        job = asyncio.get_running_loop().create_task(turn, name="asynqpy:turn")
        self._under_way.add(job)
        job.add_done_callback(self._ended)
        # A job that is cancelled before its first step never runs, and would take the outcomes it carries with it.
        await asyncio.sleep(0)

    def _ended(self, job: asyncio.Task[object]) -> None:
        self._under_way.discard(job)
        if job.cancelled():
            self._failures.append(asyncio.CancelledError())
        elif (error := job.exception()) is not None:
            self._failures.append(error)
        self._wake()

    def check(self) -> None:
        """Raise what went wrong in a turn since the last look; of several failures the first, the others are logged."""
        if self._failures:
            (error, *others), self._failures = self._failures, []
            _log(others)
            raise error

    async def end(self) -> None:
        """Wait for those under way. When that is cancelled, so are they, until they have ended; then it raises."""
        cancelled: asyncio.CancelledError | None = None
        while self._under_way:
            try:
                timeout = None if cancelled is None else CANCEL_AGAIN
                await asyncio.wait(self._under_way, timeout=timeout)
            except asyncio.CancelledError as error:
                cancelled = error
            if cancelled is not None:
                for job in self._under_way:
                    job.cancel()
        failures, self._failures = self._failures, []
        _log(failures)
        if cancelled is not None:
            raise cancelled


def _log(failures: Sequence[BaseException]) -> None:
    for error in failures:
        expected = isinstance(error, BrokerError | asyncio.CancelledError)
        level = logging.DEBUG if expected else logging.ERROR
        logger.log(level, "a turn failed: %s", error, exc_info=error)
