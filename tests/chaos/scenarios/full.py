"""Redis is full (``maxmemory`` with ``noeviction``) while tasks run and wait.

Workers must drain it and keep their leases all the same; producers must be told what the matter is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from redis.asyncio import Redis

from asynqpy import Client, Task
from asynqpy.errors import BrokerError, BrokerFullError
from tests.chaos.engines import PATIENCE
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.eventually import eventually
from tests.redis_state import ask, key

WORKERS = 2
CONCURRENCY = {"ci": 60, "long": 600}

#: Of the running tasks, those that run for as long as Redis is full; the others work off what is pending.
LONG_RUNNING = {"ci": 80, "long": 1_000}

#: Seconds of its lease that a running task has left at least: it is extended in time.
LEFT = 10.0

#: Far less than is in use, so that it stays full however much the workers free.
MAXMEMORY = 100_000

_PAUSE = 0.2


def orders(stage: Stage) -> Iterator[Order]:
    seconds, count = stage.settings.seconds, LONG_RUNNING[stage.settings.size]
    for number in range(count):
        yield Order(f"long{number}", "sleep", {"ms": 1000 * (seconds + 5)})
    for number in range(stage.settings.tasks):
        yield Order(f"short{number}", "sleep", {"ms": stage.random.randint(20, 200)})


@dataclass
class Seen:
    """What was seen while Redis was full. ``left``: the shortest time that any lease had left, s."""

    full: int = 0
    other_errors: set[str] = field(default_factory=set)
    accepted: int = 0
    left: float = 30.0
    pending: int = 0
    drained_after: float = 0.0


async def run(settings: Settings) -> Result:
    concurrency = CONCURRENCY[settings.size]
    async with staged(
        settings, "--maxmemory-policy", "noeviction", concurrency=concurrency
    ) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        await stage.produce(orders(stage))
        began = stage.elapsed
        await _until_running(stage, LONG_RUNNING[settings.size])
        seen = await _fill(stage)
        ended = stage.elapsed
        books = await stage.close_books(within=PATIENCE[settings.engine])
    cancelled = _cancelled(stage)
    books.result.marks += [(began, "full from"), (ended, "full until")]
    books.result.figures |= {
        "seconds_full": round(ended - began, 1),
        "in_flight_meanwhile": LONG_RUNNING[settings.size],
        "enqueues_refused": seen.full,
        "enqueues_accepted": seen.accepted,
        "lease_left_min_s": round(seen.left, 1),
        "pending_at_the_end": seen.pending,
        "drained_after_s": round(seen.drained_after, 1),
        "runs_cancelled": len(cancelled),
    }
    books.demand(seen.full > 0, "no enqueue was refused because Redis is full")
    books.demand_none(seen.other_errors, "enqueues refused with another error")
    books.demand(seen.left >= LEFT, f"a lease had only {seen.left:.1f} s left")
    books.demand(not seen.pending, f"{seen.pending} tasks still pending")
    books.demand_none(cancelled, "runs cancelled")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


async def _until_running(stage: Stage, count: int) -> None:
    stage.phase = "gets going"
    await eventually(lambda: stage.ledger.started >= count, within=60)


async def _fill(stage: Stage) -> Seen:
    """Redis is full for the seconds of the scenario."""
    seen, until = Seen(), time.monotonic() + stage.settings.seconds
    stage.phase, began = "is full", time.monotonic()
    async with (
        Redis.from_url(stage.redis.url, protocol=2) as redis,
        Client(stage.redis.url) as client,
    ):
        await client.ping()
        await ask(redis, "CONFIG", "SET", "maxmemory", MAXMEMORY)
        while time.monotonic() < until:
            await _probe(client, seen)
            await _look(redis, seen)
            if seen.pending:
                seen.drained_after = time.monotonic() - began
            await asyncio.sleep(_PAUSE)
        await ask(redis, "CONFIG", "SET", "maxmemory", 0)
    return seen


async def _probe(client: Client, seen: Seen) -> None:
    try:
        await client.enqueue(Task("sleep", b'{"ms": 1}'))
    except BrokerFullError:
        seen.full += 1
    except BrokerError as error:
        seen.other_errors.add(f"{type(error).__name__}: {error}")
    else:
        seen.accepted += 1


async def _look(redis: Redis, seen: Seen) -> None:
    seconds, _ = await ask(redis, "TIME")
    first = await ask(redis, "ZRANGE", key("default", "lease"), 0, 0, "WITHSCORES")
    if first:
        seen.left = min(seen.left, float(first[1]) - int(seconds))
    seen.pending = int(await ask(redis, "LLEN", key("default", "pending")))


def _cancelled(stage: Stage) -> list[str]:
    tasks = stage.ledger.tasks.items()
    return [i for i, story in tasks if any(run.how.startswith("cancelled") for run in story.runs)]


SCENARIOS = (
    Scenario(
        name="full",
        promises="Redis full: the queue drains, no lease is lost, enqueue raises BrokerFullError",
        run=run,
        ci=Size(seconds=15, tasks=1_500),
        long=Size(seconds=300, tasks=50_000),
        engines=("asynqpy", "go"),
    ),
)
