"""Dequeues whose answers were lost: Redis may have given tasks out, and nobody knows of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Grant
from asynqpy.clock import Clock

logger = logging.getLogger("asynqpy.server")

#: Seconds before the second attempt to put back what a lost dequeue took; doubled for each one after that.
_FIRST_PAUSE = 1.0


class LostGrants:
    """Puts back what lost dequeues took, at once and again later: the command itself may reach Redis after its
    connection was given up. What arrives when its lease has already ended is left to the recoverer.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        #: Each with when it is due and the pause after that, s.
        self._waiting: list[tuple[Grant, float, float]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, grants: Iterable[Grant]) -> None:
        now = self._clock.now()
        self._waiting += [(grant, now, _FIRST_PAUSE) for grant in grants]

    def next_due(self) -> float:
        """Seconds until some are to be put back; infinite when there are none."""
        due = min((due for _, due, _ in self._waiting), default=float("inf"))
        return max(0.0, due - self._clock.now())

    async def put_back(self, broker: Broker, *, everything: bool = False) -> None:
        """Put back those that are due, or all. Raises ``BrokerError``; then all of them are still due."""
        now = self._clock.now()
        due = [item for item in self._waiting if everything or item[1] <= now]
        if not due:
            return
        requeued = await broker.requeue_grants([grant for grant, _, _ in due])
        if requeued:
            logger.warning("put back %d tasks of a dequeue whose answer was lost", requeued)
        later = [
            (grant, now + pause, 2 * pause)
            for grant, _, pause in due
            if now + pause < grant.granted_until
        ]
        self._waiting = [item for item in self._waiting if item not in due] + later
