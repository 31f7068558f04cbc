from __future__ import annotations

import time

from asynqpy.clock import Clock


class FakeClock(Clock):
    """A clock that moves only when told; scripts are given its time, so leases in Redis obey it too.

    It starts at the real time, in whole seconds, since keys with a TTL expire by the clock of Redis.
    """

    def __init__(self, now: float | None = None) -> None:
        super().__init__()
        self._now = float(int(time.time())) if now is None else now

    def now(self) -> float:
        return self._now

    def now_if_anchored(self, within: float) -> float | None:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def anchor(self, redis_time: float, round_trip: float) -> None:
        """Redis has no say here."""

    def anchor_age(self) -> float:
        return 0.0
