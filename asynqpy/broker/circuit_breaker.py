"""One circuit breaker per Redis and process: while Redis is away few ask for it, the others wait for what they learn.

Closed, everybody passes. The first failure opens it. From then on one caller at a time probes, at most twice a second
and never in step with other processes; a probe that is answered lets all go on. Each caller waits about a second for
that, and then gets the failure.

It is also the one voice in the log: what a hundred callers run into at once is said once.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias
from weakref import WeakValueDictionary

from asynqpy.broker.outage import Outage

#: Seconds from one probe to the next, drawn anew each time: never more than two a second.
_SPACING = (0.5, 0.75)

#: Seconds that a caller waits for Redis to come back. It sees at least one probe that began later than that.
_PATIENCE = 1.0

#: Seconds that a caller waits at most, also when a probe gets no answer at all.
_LONGEST_WAIT = _PATIENCE + _SPACING[1]

#: Seconds after which a probe is given up for dead: its event loop may be blocked, or closed in the midst of it.
_STALE_PROBE = 3.0

Probe: TypeAlias = Callable[[], Awaitable[bool]]
"""Asks Redis for a sign that it takes writes: answers whether it gave one, after telling ``failed`` if not."""

_Listener: TypeAlias = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class CircuitBreaker:
    """Shared by all who use the same Redis, in any thread and event loop.

    ``is_open`` is all that a caller has to look at while Redis is well; then it notes ``answered_at``, the time of the
    latest answer by ``time.monotonic``.
    """

    def __init__(self, description: str) -> None:
        self.is_open = False
        self.answered_at = 0.0
        self._lock = threading.RLock()
        self._outage = Outage(description)
        self._refuses = False
        self._moved = ""
        self._failed_probes = 0
        self._next_probe_at = 0.0
        self._probing_since: float | None = None
        self._listeners: set[_Listener] = set()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<CircuitBreaker {self._outage.description} {state}>"

    @property
    def outages(self) -> int:
        """How often Redis was away so far: what was known before, and connections made before, may be void."""
        return self._outage.count

    def failed(self, reason: str, began_at: float, *, refused: bool, certain: bool) -> None:
        """A call that began at that time (``time.monotonic``) failed for want of Redis.

        ``refused``: Redis answered that it cannot serve, so that only a probe closes the breaker again. ``certain``:
        Redis is away, and it was not just a connection that broke; else that is for the first probe to find out.
        """
        if began_at < self.answered_at and not refused:
            return  # an old connection died; another has been answered since
        with self._lock:
            now = time.monotonic()
            if not self.is_open:
                # One that could not connect has tried; one whose connection broke has not.
                self._next_probe_at = max(self._next_probe_at, now + _spacing() if certain else now)
                self._outage.begin(now)
                self.is_open = True
            self._refuses = refused
            self._outage.say(reason, now, certain=certain)

    def moved(self, reason: str) -> None:
        """Redis is another from now on, to be found by a probe: what was known and what was connected is void.

        Told again by others, in the same words, it is no news.
        """
        with self._lock:
            if reason == self._moved:
                return
            self._moved = reason
            now = time.monotonic()
            if not self.is_open:
                self._outage.begin(now)
                self.is_open, self._refuses = True, False
            self._next_probe_at = now  # the last probe was of the old one
            self._outage.move(reason)
            self._tell()

    def answered(self) -> None:
        """A call that was under way when the breaker opened was answered: one connection broke, not Redis."""
        with self._lock:
            if self.is_open and not self._refuses:
                self._close()

    def busy(self, message: str) -> None:
        """No connection was free: to be said now and then, but no outage."""
        with self._lock:
            self._outage.say_busy(message, time.monotonic())

    async def wait(self, probe: Probe) -> None:
        """Return once Redis answers, and take part in probing meanwhile. Raises ``BrokerUnavailableError``.

        Nothing of the caller's is sent. What the probe raises is raised.
        """
        arrived, seen = time.monotonic(), self._failed_probes
        while self.is_open:
            now = time.monotonic()
            if self._failed_probes > seen and now - arrived >= _PATIENCE:
                raise self._outage.error(now)
            seen = self._failed_probes
            listener = self._take_probe_or_listen(now)
            if listener is None:
                await self._run_probe(probe, began_at=now)
            elif now - arrived >= _LONGEST_WAIT:
                self._listeners.discard(listener)
                raise self._outage.error(now)
            else:
                await self._news(listener, min(self._pause(now), arrived + _LONGEST_WAIT - now))

    def _take_probe_or_listen(self, now: float) -> _Listener | None:
        with self._lock:
            if now >= self._next_probe_at and not self._is_probed(now):
                self._probing_since = now
                self._next_probe_at = now + _spacing()
                self._outage.attempts += 1
                return None
            loop = asyncio.get_running_loop()
            listener = (loop, loop.create_future())
            if not self.is_open:
                listener[1].set_result(None)
            self._listeners.add(listener)
            return listener

    def _is_probed(self, now: float) -> bool:
        return self._probing_since is not None and now - self._probing_since < _STALE_PROBE

    def _pause(self, now: float) -> float:
        """Seconds until a probe may begin."""
        since = self._probing_since
        stale = 0.0 if since is None else since + _STALE_PROBE - now
        return max(0.0, self._next_probe_at - now, stale)

    async def _news(self, listener: _Listener, timeout: float) -> None:
        """Wait until a probe has ended, at most ``timeout`` s."""
        try:
            await asyncio.wait([listener[1]], timeout=timeout)
        finally:
            with self._lock:
                self._listeners.discard(listener)

    async def _run_probe(self, probe: Probe, began_at: float) -> None:
        is_good = None
        try:
            is_good = await probe()
        finally:  # one that was cut short tells nothing: another caller is next
            with self._lock:
                if self._probing_since == began_at:
                    self._probing_since = None
                self._note(is_good)

    def _note(self, is_good: bool | None) -> None:
        if is_good and self.is_open:
            self._close()
            return
        if is_good is False and self.is_open:  # else it was a late one
            self._failed_probes += 1
            self._outage.say(None, time.monotonic(), certain=True)
        self._tell()

    def _close(self) -> None:
        self.is_open = False
        self.answered_at = time.monotonic()
        self._outage.end(self.answered_at)
        self._tell()

    def _tell(self) -> None:
        for loop, told in list(self._listeners):
            with suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(_finish, told)


def _spacing() -> float:
    return random.uniform(*_SPACING)


def _finish(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


_breakers: WeakValueDictionary[str, CircuitBreaker] = WeakValueDictionary()
_breakers_lock = threading.Lock()


def breaker_of(description: str) -> CircuitBreaker:
    """The breaker of the Redis that connections describe so; it lives as long as one of them has it."""
    with _breakers_lock:
        breaker = _breakers.get(description)
        if breaker is None:
            breaker = _breakers[description] = CircuitBreaker(description)
        return breaker
