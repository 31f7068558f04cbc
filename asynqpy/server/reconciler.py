"""The Reconciler: finds what crashes, evictions and other programs have damaged in queues, and puts it right."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress

from asynqpy.broker.broker import Broker
from asynqpy.broker.findings import Finding
from asynqpy.broker.healer import Steps
from asynqpy.broker.reconciliation import Reconciliation
from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")

#: Seconds between two searches of a whole queue, whichever server does them.
_SEARCH_INTERVAL = 15 * 60

#: Ids of the longest ``pending`` that a search remembers. The doctor knows no such limit.
_LONGEST = 100_000

#: A step is followed by a pause so many times as long, s at least and at most: Redis is to notice nothing.
_PAUSE, _SHORTEST_PAUSE, _LONGEST_PAUSE = 9, 0.005, 1.0


class Reconciler(Service):
    """Glances at its queues at each tick, and searches them through when no server has done so for a while.

    A glance at a queue is left out where Redis tells of changes, and there was none.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        queues: Sequence[str],
        interval: float = 60.0,
        first_search: float = 120.0,
    ) -> None:
        """The first search begins ``first_search`` s after the start at the earliest."""
        super().__init__(interval=interval * random.uniform(0.25, 0.5))
        self._broker = broker
        self._queues = queues
        self._usual_interval = interval
        self._next_search = time.monotonic() + first_search
        self._glanced: dict[str, int] = {}

    async def tick(self) -> float | None:
        """One pass. Servers that were started together drift apart."""
        marks = await self._broker.marks(self._queues)
        changed = [q for q in self._queues if q not in marks or marks[q] != self._glanced.get(q, 0)]
        glance = self._broker.reconciliation(heal=True)
        await self._follow(glance.glance(changed))
        self._glanced = marks
        if time.monotonic() >= self._next_search:
            await self.search()
        return self._usual_interval * random.uniform(0.75, 1.25)

    async def search(self) -> None:
        """Search those queues whose turn it is."""
        self._next_search = time.monotonic() + self._usual_interval
        queues = await self._broker.take_turn(self._queues, _SEARCH_INTERVAL)
        if not queues or self._stopping.is_set():
            return
        search = self._broker.reconciliation(heal=True, longest=_LONGEST)
        await self._follow(search.search(queues))
        _tell_of_skipped(search)

    async def _follow(self, steps: Steps) -> None:
        started = time.monotonic()
        async with aclosing(steps):
            async for step in steps:
                for finding in step.findings:
                    _tell(finding)
                if await self._pause(time.monotonic() - started):
                    return
                started = time.monotonic()

    async def _pause(self, took: float) -> bool:
        """Let Redis do other things; answers whether the service is to stop."""
        pause = min(max(took * _PAUSE, _SHORTEST_PAUSE), _LONGEST_PAUSE)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause)
        return self._stopping.is_set()


def _tell(finding: Finding) -> None:
    verb = "healed" if finding.is_healed else "found"
    logger.warning(
        "%s %s",
        verb,
        finding,
        extra={
            "queue": finding.queue,
            "problem": str(finding.problem),
            "invariant": finding.invariant,
            "subject": finding.subject,
            "repair": finding.repair,
        },
    )


def _tell_of_skipped(search: Reconciliation) -> None:
    for queue in search.skipped:
        logger.info(
            "queue %s has more than %d pending tasks: not searched for pending tasks in no list",
            queue,
            _LONGEST,
            extra={"queue": queue},
        )
