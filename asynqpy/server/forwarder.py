"""The Forwarder: moves scheduled and retry tasks whose time has come to pending."""

from __future__ import annotations

from collections.abc import Sequence

from asynqpy.broker.broker import Broker
from asynqpy.clock import Clock
from asynqpy.server.service import Service

#: Seconds at least between two passes, for a due time that rounding puts just before the next full second.
_SHORTEST_PAUSE = 0.02


class Forwarder(Service):
    """Sleeps until the next task is due, at most the interval: a task enqueued meanwhile may be due sooner."""

    def __init__(
        self, *, broker: Broker, clock: Clock, queues: Sequence[str], interval: float
    ) -> None:
        super().__init__(interval=interval, at_once=True)
        self._broker = broker
        self._clock = clock
        self._queues = queues

    async def tick(self) -> float | None:
        next_due = await self._broker.forward(self._queues)
        if next_due is None:
            return None
        return min(self._interval, max(_SHORTEST_PAUSE, next_due - self._clock.now()))
