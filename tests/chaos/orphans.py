"""Tasks that Redis gave out and nobody got: how long until they are back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from redis.asyncio import Redis

from tests.chaos.ledger import Ledger
from tests.redis_state import ask, key

_PAUSE = 0.05

#: A reply takes a moment also when it is not lost (s).
_ON_ITS_WAY = 0.25


class OrphanWatch:
    """Samples ``active`` for ids whose handler never started; ``ages`` are the seconds each was seen there."""

    def __init__(self, url: str, queues: Sequence[str], ledger: Ledger) -> None:
        self._url = url
        self._queues = queues
        self._ledger = ledger
        self._since: dict[str, float] = {}
        self.ages: list[float] = []

    @property
    def seen(self) -> int:
        """Tasks that were out for longer than a reply takes."""
        return sum(age > _ON_ITS_WAY for age in self.ages)

    async def run(self) -> None:
        async with Redis.from_url(self._url, protocol=2, decode_responses=True) as redis:
            while True:
                await self.look(redis)
                await asyncio.sleep(_PAUSE)

    async def look(self, redis: Redis) -> None:
        now = time.monotonic()
        active = {
            task_id
            for queue in self._queues
            for task_id in await ask(redis, "LRANGE", key(queue, "active"), 0, -1)
        }
        self._ledger.update()
        orphans = {task_id for task_id in active if not self._has_started(task_id)}
        for task_id in orphans:
            self._since.setdefault(task_id, now)
        for task_id in self._since.keys() - orphans:
            self.ages.append(now - self._since.pop(task_id))

    def _has_started(self, task_id: str) -> bool:
        story = self._ledger.tasks.get(task_id)
        return story is not None and bool(story.runs)
