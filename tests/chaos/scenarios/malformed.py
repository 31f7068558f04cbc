"""Malformed records among healthy tasks: they are set aside with their bytes, and stand in nobody's way.

Rounds with and without them take turns, and each is compared with its neighbour. In the end healthy tasks of a dead
worker lie among malformed ones, and must be recovered all the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from redis.asyncio import Redis

from asynqpy import Client, Task
from tests.chaos.bad_records import (
    BadRecord,
    bad_records,
    lost_bytes,
    remove_unserved,
    seed,
)
from tests.chaos.engines import PATIENCE
from tests.chaos.producer import BATCH
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.chaos.verifier import drain
from tests.redis_state import ask, key, message, seed_active

WORKERS = 2
QUEUE = "default"

#: Rounds of each sort. The malformed records of a run are divided among those that have them.
ROUNDS = {"ci": 3, "long": 10}

#: Share of the throughput without malformed records. The rounds of CI are short, and it plays several scenarios at a
#: time: they show that nothing is blocked, not what a record costs.
LEAST = {"ci": 0.4, "long": 0.95}

#: Of the healthy tasks in a round with malformed records, one in so many stands in ``pending`` twice.
REPEATED = 100

#: Healthy tasks of a dead worker in the end, and seconds until all of them are done.
CRASHED, SOON = 50, 15.0

_PAUSE = 0.05


@dataclass
class Rounds:
    """The throughput of each round (tasks/s) and when it began; the malformed records of all."""

    without: list[tuple[float, float]] = field(default_factory=list)
    among: list[tuple[float, float]] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    recovered_after: float = 0.0

    @property
    def ratio(self) -> float:
        """The median of what each round had of its neighbour's throughput: other load hits both alike."""
        pairs = zip(self.among, self.without, strict=True)
        return median(among / without for (_, among), (_, without) in pairs)


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=50) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        async with Redis.from_url(stage.redis.url, protocol=2) as redis:
            rounds = await _play(stage, redis)
            await drain(stage.redis.url, [QUEUE], 60)
            lost = await lost_bytes(redis, QUEUE, rounds.bad)
            await remove_unserved(redis, QUEUE, rounds.bad)
        books = await stage.close_books(within=PATIENCE[settings.engine])
    least = LEAST[settings.size]
    books.result.figures |= {
        "malformed": len(rounds.bad),
        "throughput_without": round(median(rate for _, rate in rounds.without)),
        "throughput_among": round(median(rate for _, rate in rounds.among)),
        "throughput_ratio": round(rounds.ratio, 3),
        "recovered_after_s": round(rounds.recovered_after, 1),
        "malformed_bytes_lost": len(lost),
    }
    books.result.series |= {
        "tasks/s: without malformed records": rounds.without,
        "tasks/s: among malformed records": rounds.among,
    }
    books.demand(rounds.ratio >= least, f"throughput fell to {rounds.ratio:.0%}")
    books.demand_soon(rounds.recovered_after, SOON, "recovery")
    books.demand_none(lost, "malformed records whose bytes are gone")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


async def _play(stage: Stage, redis: Redis) -> Rounds:
    rounds, number = Rounds(), ROUNDS[stage.settings.size]
    source = _bad_records(stage.random)
    share = stage.settings.faults // (number + 1)
    await _round(stage, redis, "warm-up", [])
    for place in range(number):
        rounds.without.append(await _round(stage, redis, f"clean{place}", []))
        bad = [next(source) for _ in range(share)]
        rounds.bad += bad
        rounds.among.append(await _round(stage, redis, f"mixed{place}", bad))
        # What is left of this round shall not be work of the next.
        await drain(stage.redis.url, [QUEUE], 60)
    bad = [next(source) for _ in range(share)]
    rounds.bad += bad
    rounds.recovered_after = await _crash(stage, redis, bad)
    return rounds


def _bad_records(dice: random.Random) -> Iterator[BadRecord]:
    return bad_records(1_000_000, QUEUE, dice, now=time.time())


async def _round(
    stage: Stage, redis: Redis, name: str, bad: Sequence[BadRecord]
) -> tuple[float, float]:
    """Fill the paused queue, let it go; when it went (s), and the healthy tasks per second."""
    ids = [f"{name}-{n}" for n in range(stage.settings.tasks)]
    stage.phase, began = name, stage.elapsed
    await ask(redis, "SET", key(QUEUE, "paused"), int(time.time()))
    await _fill(stage, redis, ids, bad)
    await ask(redis, "DEL", key(QUEUE, "paused"))
    await _until_finished(stage, ids)
    runs = [run for task_id in ids for run in stage.ledger.tasks[task_id].runs]
    span = max(run.ended for run in runs) - min(run.started for run in runs)
    return began, len(ids) * 1e9 / span


async def _fill(stage: Stage, redis: Redis, ids: Sequence[str], bad: Sequence[BadRecord]) -> None:
    """Healthy tasks with malformed records between them, and some of them twice."""
    batches = range(0, len(ids), BATCH)
    async with Client(stage.redis.url) as client:
        for place, start in enumerate(batches):
            batch = ids[start : start + BATCH]
            await client.enqueue_many([Task("sleep", b"{}", task_id=i) for i in batch])
            stage.journal.write_many("acked", batch)
            await seed(redis, bad[place :: len(batches)])
            if bad:
                await ask(redis, "LPUSH", key(QUEUE, "pending"), *batch[::REPEATED])


async def _crash(stage: Stage, redis: Redis, bad: Sequence[BadRecord]) -> float:
    """Healthy tasks of a Go worker that died a while ago, and malformed ones of that age: seconds until all is done."""
    ids = [f"crashed-{n}" for n in range(CRASHED)]
    stage.phase = "recovers"
    await seed(redis, bad)
    lost_at = int(time.time()) - 90
    tasks = (message(i, type="sleep", payload=b"{}", queue=QUEUE) for i in ids)
    await seed_active(redis, *tasks, lease=lost_at)
    stage.journal.write_many("acked", ids)
    began = time.monotonic()
    await _until_finished(stage, ids)
    return time.monotonic() - began


async def _until_finished(stage: Stage, ids: Sequence[str], within: float = 120.0) -> None:
    """At the latest when the time is over: what is missing then is found by the ledger."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if all(stage.ledger.tasks[task_id].finished for task_id in reversed(ids)):
            return
        await asyncio.sleep(_PAUSE)
        stage.ledger.update()


SCENARIOS = (
    Scenario(
        name="malformed",
        promises="malformed records are set aside, bytes kept; healthy tasks keep 95 % of their rate, recovery goes on",
        run=run,
        ci=Size(seconds=0, tasks=2_000, faults=800),
        long=Size(seconds=0, tasks=20_000, faults=11_000),
        engines=("asynqpy", "go"),
    ),
)
