"""One worker is cut off from Redis, in both directions or in one, while the others go on.

A short cut must cost nothing. After a long one the tasks of that worker belong to others: its handlers are cancelled
when their leases are over, and whatever it says about them later counts for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.chaos.engines import PATIENCE
from tests.chaos.fleet import Worker
from tests.chaos.ledger import Fault, Run
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_process import RedisProcess, start_redis
from tests.redis_proxy import RedisProxy

WORKERS = 3

#: What is swallowed: requests, replies.
WAYS = {"both": (True, True), "replies": (False, True), "requests": (True, False)}

#: The cuts, by the size of the run: way and length (s). Each is made as often as there are faults.
CUTS = {
    "ci": (("both", 10.0), ("replies", 4.0)),
    "long": tuple((way, seconds) for seconds in (5.0, 20.0, 60.0) for way in WAYS),
}

#: A cut of so many seconds is one that nobody should notice by what runs.
SHORT = 5.0

#: Seconds after a cut by which the last lease from before it is over, and its handler cancelled.
CANCELLED_WITHIN = 30.0 + 5.0

#: Seconds that a worker has, once it is connected again, to notice.
BACK_WITHIN = 15.0


@dataclass(frozen=True, slots=True)
class Site:
    """A worker and the only way from it to Redis."""

    worker: Worker
    proxy: RedisProxy


def orders(stage: Stage) -> Iterator[Order]:
    """Mostly 5-50 ms; every twentieth runs for seconds, so that every cut finds some that outlast it."""
    for number in range(stage.settings.tasks):
        milliseconds = (1_000, 20_000) if number % 20 == 0 else (5, 50)
        yield Order(f"p{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(settings: Settings) -> Result:
    async with AsyncExitStack() as stack:
        redis = start_redis()
        staging = staged(settings, redis=redis, concurrency=60)
        stage = await stack.enter_async_context(staging)
        sites = [await _site(stage, stack, redis) for _ in range(WORKERS)]
        await stage.fleet.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            group.create_task(_cut_some(stage, sites))
        books = await stage.close_books(within=PATIENCE[settings.engine])
    again = {fault.kind: _ran_again(stage, fault) for fault in stage.ledger.faults}
    short = [kind for kind, tasks in again.items() if tasks and _seconds(kind) <= SHORT]
    late = list(_late(stage))
    books.result.figures |= {
        **{f"run_again_after_{kind}": tasks for kind, tasks in again.items()},
        "handlers_cancelled": sum(run.how.startswith("cancelled") for run in _runs(stage)),
        "handlers_cancelled_late": len(late),
    }
    books.demand_none(short, "short cuts after which tasks ran again")
    books.demand_none(late, "handlers that went on after their lease")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


async def _site(stage: Stage, stack: AsyncExitStack, redis: RedisProcess) -> Site:
    proxy = await stack.enter_async_context(RedisProxy(redis.port, keeps_requests=False))
    (worker,) = stage.fleet.start(redis=proxy.url)
    return Site(worker, proxy)


async def _cut_some(stage: Stage, sites: list[Site]) -> None:
    for way, seconds in CUTS[stage.settings.size]:
        for _ in range(stage.settings.faults):
            await asyncio.sleep(2)
            await _cut(stage, stage.random.choice(sites), way, seconds)


async def _cut(stage: Stage, site: Site, way: str, seconds: float) -> None:
    kind, pid = f"{way}-{seconds:g}s", site.worker.pid
    stage.journal.write("fault", extra=kind, pid=pid)
    site.proxy.swallows_requests, site.proxy.swallows_replies = WAYS[way]
    await asyncio.sleep(seconds)
    site.proxy.swallows_requests = site.proxy.swallows_replies = False
    began = len(_started_by(stage, pid))
    waited = 0.0
    while len(_started_by(stage, pid)) == began and waited < BACK_WITHIN:
        await asyncio.sleep(0.1)
        waited += 0.1
    stage.journal.write("mended", extra=kind, pid=pid)


def _started_by(stage: Stage, pid: int) -> list[Run]:
    return [run for run in _runs(stage) if run.pid == pid]


def _runs(stage: Stage) -> Iterator[Run]:
    for story in stage.ledger.tasks.values():
        yield from story.runs


def _ran_again(stage: Stage, fault: Fault) -> int:
    """Tasks that the worker was running when it was cut off, and that started again."""
    return sum(
        any(_was_running(run, fault) and run is not story.runs[-1] for run in story.runs)
        for story in stage.ledger.tasks.values()
    )


def _late(stage: Stage) -> Iterator[str]:
    for fault in stage.ledger.faults:
        end = fault.at + CANCELLED_WITHIN * 1e9
        for task_id, story in stage.ledger.tasks.items():
            if end < fault.until:
                yield from (
                    task_id for run in story.runs if _was_running(run, fault) and run.ended > end
                )


def _was_running(run: Run, fault: Fault) -> bool:
    return run.pid == fault.pid and run.started <= fault.at and fault.catches(run)


def _seconds(kind: str) -> float:
    return float(kind.rpartition("-")[2].removesuffix("s"))


SCENARIOS = (
    Scenario(
        name="partition",
        promises="a worker cut off for 5 s loses no task; whatever the cut, nothing is lost or stuck",
        run=run,
        ci=Size(seconds=40, tasks=4_000, faults=1),
        long=Size(seconds=420, tasks=40_000, faults=1),
        engines=("asynqpy", "go"),
    ),
)
