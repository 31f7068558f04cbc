"""The life of a background task: the only place that loops, sleeps, backs off and logs what went wrong."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any

from asynqpy.errors import BrokerError, BrokerUnavailableError

logger = logging.getLogger("asynqpy.server")

#: Seconds before the second attempt after a failure; doubled for each one after that.
_FIRST_BACK_OFF = 0.5

#: Seconds before what was cancelled is cancelled again: redis-py loses a cancellation while it connects.
CANCEL_AGAIN = 0.5


async def cancel_until_done(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended, however that is."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN)


class Service(ABC):
    """Calls ``tick`` again and again between ``start`` and ``stop``.

    ``stop`` returns when everything has stopped. Starting twice, stopping twice and stopping before the start do
    nothing. A tick that fails is logged and tried again, ever more slowly. Subclasses say what one pass is; tests call
    it.
    """

    #: Seconds at most before another attempt after a failure. Shorter where a lease depends on it.
    longest_back_off = 10.0

    #: Whether stop may cancel a tick under way. Not when it awaits an answer that must not be lost.
    interruptible = False

    def __init__(self, *, interval: float = math.inf, at_once: bool = False) -> None:
        """Tick each ``interval`` s, the first time after one, or ``at_once``."""
        self._interval = interval
        self._first_delay = 0.0 if at_once else interval
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0
        self._had_news = False
        self._task: asyncio.Task[None] | None = None
        self.name = type(self).__name__.lower()

    @abstractmethod
    async def tick(self) -> float | None:
        """One pass. Answers the seconds until the next; ``None`` for the usual interval."""

    async def finish(self) -> None:  # noqa: B027 - most services have nothing to let go of
        """Let go of what ticks acquired; called when the loop has ended."""

    def start(self) -> None:
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._loop(), name=f"asynqpy:{self.name}")

    async def stop(self, patience: float | None = None) -> None:
        """Stop, and cancel a tick that takes more than ``patience`` s from now; ``None`` waits as long as it takes."""
        task = self._task
        if task is None:
            return
        self._stopping.set()
        self._wake.set()
        if not self.interruptible:
            # Not ``await task``: its cancellation must not pass for that of whoever called stop.
            await asyncio.wait([task], timeout=patience)
        await cancel_until_done(task)
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s did not stop cleanly: %s", self.name, error, exc_info=error)

    def wake(self) -> None:
        """Tick now rather than when the interval ends. Not from another thread."""
        self._wake.set()

    async def _loop(self) -> None:
        try:
            await self._sleep(self._first_delay)
            while not self._stopping.is_set():
                delay = await self._guarded_tick()
                if not self._stopping.is_set():
                    await self._sleep(delay)
        finally:
            await self.finish()

    async def _guarded_tick(self) -> float:
        started = time.monotonic()
        try:
            delay = await self.tick()
        except (Exception, asyncio.CancelledError) as error:
            if self._is_cancelled(error):
                raise
            # A tick that held for long, such as a subscription, had recovered from what failed before it.
            held = time.monotonic() - started > self.longest_back_off
            self._failures = 1 if held else self._failures + 1
            return await self._back_off(error)
        if self._failures:
            logger.log(_level(logging.INFO, self._had_news), "%s works again", self.name)
            self._failures, self._had_news = 0, False
        return self._interval if delay is None else delay

    def _is_cancelled(self, error: BaseException) -> bool:
        """Whether it was the service that was cancelled, and not something it awaited."""
        job = asyncio.current_task()
        cancelling = self._stopping.is_set() or (job is not None and job.cancelling() > 0)
        return isinstance(error, asyncio.CancelledError) and cancelling

    async def _back_off(self, error: BaseException) -> float:
        """Wait before the next attempt; nothing but stop shortens it, or a busy server would hammer a sick Redis."""
        longest = min(self.longest_back_off, _FIRST_BACK_OFF * 2 ** (self._failures - 1))
        delay = longest * random.uniform(0.75, 1.25)
        expected = isinstance(error, BrokerError)
        # Of a Redis that is away the circuit breaker tells, once for all services.
        is_news = not isinstance(error, BrokerUnavailableError)
        self._had_news |= is_news
        logger.log(
            _level(logging.WARNING if expected else logging.ERROR, is_news),
            "%s failed, next attempt in %.1f s: %s",
            self.name,
            delay,
            error,
            exc_info=None if expected else error,
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)
        return 0.0

    async def _sleep(self, delay: float) -> None:
        if delay > 0 and not self._wake.is_set():
            timer = None
            if delay < math.inf:
                timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._wake.clear()


def _level(level: int, is_news: bool) -> int:
    return level if is_news else logging.DEBUG
