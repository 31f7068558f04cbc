"""Replies of Redis are lost after it did what was asked: a proxy cuts one connection in a hundred exchanges.

Nobody can tell then whether a dequeue, a settlement or an enqueue has happened. None of them may happen twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.engines import PATIENCE
from tests.chaos.orphans import OrphanWatch
from tests.chaos.producer import OWN_CONFLICT, Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_process import start_redis
from tests.redis_proxy import RedisProxy

WORKERS = 2

#: Of the exchanges with Redis.
LOST = 0.01

#: Seconds until a task whose dequeue went unanswered is running.
SOON = 5.0

#: Where a task stays for a while after it is done, its id cannot be used again by an enqueue repeated too late.
RETENTION = 600


def orders(stage: Stage) -> Iterator[Order]:
    for number in range(stage.settings.tasks):
        payload = {"ms": stage.random.randint(1, 20)}
        yield Order(f"l{number}", "sleep", payload, {"retention": RETENTION})


async def run(settings: Settings) -> Result:
    redis = start_redis()
    async with staged(settings, redis=redis, concurrency=30) as stage:
        proxy = RedisProxy(redis.port, dice=stage.random, keeps_requests=False)
        async with proxy:
            watch = OrphanWatch(stage.redis.url, list(stage.queues), stage.ledger)
            watching = asyncio.create_task(watch.run())
            await stage.fleet.ready(stage.fleet.start(WORKERS, redis=proxy.url))
            proxy.drop_replies = LOST
            await stage.produce(orders(stage), settings.tasks / settings.seconds, proxy.url)
            books = await stage.close_books(within=PATIENCE[settings.engine])
            watching.cancel()
    longest, conflicts = max(watch.ages, default=0.0), stage.ledger.notes.count(OWN_CONFLICT)
    books.result.figures |= {
        "replies_lost": proxy.dropped,
        "connections": proxy.connections,
        "operations": stage.ledger.acked + 2 * stage.ledger.started,
        "enqueues_uncertain": sum(story.doubts for story in stage.ledger.tasks.values()),
        "false_conflicts": conflicts,
        "orphans_seen": watch.seen,
        "orphan_max_s": round(longest, 2),
    }
    books.demand_some(books.result.figures["replies_lost"], "lost replies")
    books.demand(not conflicts, f"{conflicts} enqueues told of a conflict with themselves")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_soon(longest, SOON, "the return of a dequeued task")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


SCENARIOS = (
    Scenario(
        name="lost-replies",
        promises="1 % of replies lost: no task enqueued, run or settled twice, none waits > 5 s, no retry burned",
        run=run,
        ci=Size(seconds=12, tasks=2_400),
        long=Size(seconds=240, tasks=40_000),
        engines=("asynqpy", "go"),
    ),
)
