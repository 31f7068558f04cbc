"""The only place that reads wall time.

asynq takes "now" from the clock of whichever host runs, so hosts that disagree take each other's tasks away (or leave
dead ones lying). asynqpy's ``Clock`` follows the clock of Redis instead: it is anchored to ``TIME`` at connect and at
each heartbeat, and runs on a steady clock in between, so neither skew nor a jump of the host's clock moves it. Where
there is one, that clock goes on while the host sleeps: who wakes must not take old leases for valid.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

#: A sample whose round trip was longer says little about "now": half of it is the error.
_WORST_ROUND_TRIP = 2.0

_NANOSECONDS = 1_000_000_000

#: Goes on while the host sleeps, unlike ``time.monotonic`` of Linux and macOS. Linux has CLOCK_BOOTTIME for that. On
#: macOS CLOCK_MONOTONIC does it too, but is made from the wall clock, whose steps may show; the raw one knows none.
_STEADY_CLOCK: int | None = getattr(
    time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC_RAW", None)
)

#: The last second of the year 9999, unix s: no ``datetime`` goes further.
_LATEST = 253_402_300_799


def instant(unix: float) -> datetime:
    """Unix seconds as UTC. What lies before 1970 or past 9999 (milliseconds?) becomes the end of that range."""
    if not 0.0 <= unix <= _LATEST:
        unix = min(max(unix, 0.0), _LATEST)
    return datetime.fromtimestamp(unix, UTC)


@lru_cache(maxsize=2)
def _day(number: int) -> str:
    """The name of a day, by its number since 1970."""
    return instant(number * 86_400.0).strftime("%Y-%m-%d")


def _steady() -> float:
    """Seconds since an instant in the past; never goes back."""
    return time.monotonic() if _STEADY_CLOCK is None else time.clock_gettime(_STEADY_CLOCK)


class Clock:
    """Unix time that agrees with the Redis it was anchored to. Safe to read from any thread."""

    def __init__(self) -> None:
        self._offset = time.time() - _steady()
        self._anchored_at: float | None = None
        self._error = 0.0

    def now(self) -> float:
        """Unix time in seconds."""
        return _steady() + self._offset

    def certainly(self) -> float:
        """Unix time that Redis has reached in any case: ``now`` less the error of the sample behind it.

        For what must not happen before its time. The answer that anchored the clock may have been written at any
        moment of its round trip, and ``now`` takes the middle.
        """
        return self.now() - self._error

    def now_if_anchored(self, within: float) -> float | None:
        """``now``, if the clock was anchored within so many seconds."""
        if self._anchored_at is None:
            return None
        steady = _steady()
        return steady + self._offset if steady - self._anchored_at <= within else None

    def now_ns(self) -> int:
        """Unix time in nanoseconds, with the precision of a float of seconds (about 0.2 µs)."""
        return int(self.now() * _NANOSECONDS)

    def today(self) -> str:
        """The UTC day, ``YYYY-MM-DD``, by which the daily counters are named."""
        return _day(int(self.now()) // 86_400)

    def anchor(self, redis_time: float, round_trip: float) -> None:
        """Follow Redis, whose ``TIME`` (s) has just arrived after a round trip of so many seconds."""
        if self._anchored_at is not None and round_trip > _WORST_ROUND_TRIP:
            return
        steady = _steady()
        self._error = round_trip / 2
        self._offset = redis_time + self._error - steady
        self._anchored_at = steady

    def anchor_age(self) -> float:
        """Seconds since the clock was last anchored; infinite if never."""
        if self._anchored_at is None:
            return float("inf")
        return _steady() - self._anchored_at
