"""The Forwarder: moves scheduled and retry tasks whose time has come to pending."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asynqpy.broker.broker import Broker
from asynqpy.clock import Clock
from asynqpy.server.nudge import Nudge
from asynqpy.server.service import Service

#: Seconds at least between two passes, for a due time that rounding puts just before the next full second.
_SHORTEST_PAUSE = 0.02

#: Seconds at least between two passes for the sake of tasks that were just delayed: there may be a stream of them.
_SPACING = 0.25


class Forwarder(Service):
    """Sleeps until the next task is due, at most the interval: a task enqueued meanwhile may be due sooner.

    Where Redis tells of changes it is woken for such a task.
    """

    def __init__(
        self, *, broker: Broker, clock: Clock, queues: Sequence[str], interval: float
    ) -> None:
        super().__init__(interval=interval, at_once=True)
        self._broker = broker
        self._clock = clock
        self._queues = queues
        self._next_pass = 0.0
        broker.on_delayed(queues, Nudge(self.wake, spacing=_SPACING))

    async def tick(self) -> float | None:
        # Nothing falls due by the clock of a host that Redis has not confirmed.
        await self._broker.keep_clock()
        # What becomes due while this pass is under way may be missed by it.
        self._next_pass = math.inf
        next_due = await self._broker.forward(self._queues)
        pause = self._interval
        if next_due is not None:
            pause = min(pause, max(_SHORTEST_PAUSE, next_due - self._clock.certainly()))
        self._next_pass = self._clock.now() + pause
        return pause

    def expect(self, due: float) -> None:
        """A task that is due at ``due`` (unix s) was just put in retry: look again if that is before the next pass."""
        if int(due) < self._next_pass:
            self.wake()
