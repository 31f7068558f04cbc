from __future__ import annotations

from redis.asyncio import Redis

from tests.chaos.journal import Entry
from tests.chaos.ledger import Ledger
from tests.chaos.orphans import OrphanWatch
from tests.redis_state import ask, key


async def test_what_was_given_out_and_never_started_has_an_age(
    redis: Redis, redis_url: str
) -> None:
    ledger = Ledger()
    watch = OrphanWatch(redis_url, ["default"], ledger)
    await ask(redis, "LPUSH", key("default", "active"), "orphan", "running")
    ledger.add([Entry(at=1, kind="start", task_id="running", pid=1, extra="0")])
    async with Redis.from_url(redis_url, protocol=2, decode_responses=True) as reader:
        await watch.look(reader)
        assert watch.ages == []
        ledger.add([Entry(at=2, kind="start", task_id="orphan", pid=1, extra="0")])
        await watch.look(reader)
    assert len(watch.ages) == 1
    assert watch.seen == 0, "a moment is no more than a reply takes"
