"""A worker stands still (SIGSTOP) until its tasks were given away, and goes on: it has no say about them any more.

What ends before it has noticed cannot be settled; what still runs is cancelled, with the cause "lease lost". Whoever
got the tasks finishes them, undisturbed.
"""

from __future__ import annotations

import signal
import time

from redis.asyncio import Redis

from tests.chaos.books import Books
from tests.chaos.ledger import SECOND, Story
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_state import counter

#: Lengths (s): over by the time the worker goes on, and not over even then.
SHORT, LONG = 8.0, 27.0

#: Seconds in which a worker that goes on has noticed its loss: a heartbeat, and some for a busy machine.
NOTICE = 8.0


async def run(settings: Settings) -> Result:
    async with staged(settings) as stage:
        fleet, each = stage.fleet, settings.tasks // settings.faults
        frozen = fleet.start(settings.faults, concurrency=each)
        (heir,) = fleet.start(concurrency=settings.tasks)
        await fleet.ready()
        # It takes over later, and is to have nothing before.
        heir.process.send_signal(signal.SIGSTOP)
        ids = await _occupy(stage)
        for worker in frozen:
            fleet.freeze(worker)
        heir.process.send_signal(signal.SIGCONT)
        await stage.until_started(ids, runs=2, within=60)
        thawed = time.time_ns()
        for worker in frozen:
            fleet.thaw(worker)
        books = await stage.close_books(within=60)
        settled = await _settled(stage)
    _check(stage, books, {worker.pid for worker in frozen}, thawed)
    books.result.figures["settled"] = settled
    books.demand(settled == len(ids), f"{settled} outcomes were written of {len(ids)} tasks")
    return books.result


async def _occupy(stage: Stage) -> list[str]:
    """Give the workers as many tasks as they can run, short and long by turns; answers their ids."""
    lengths = ("short", SHORT), ("long", LONG)
    orders = [
        Order(f"{name}{number}", "sleep", {"ms": seconds * 1000})
        for number in range(stage.settings.tasks // 2)
        for name, seconds in lengths
    ]
    ids = [order.task_id for order in orders]
    await stage.produce(orders)
    await stage.until_started(ids)
    return ids


async def _settled(stage: Stage) -> int:
    """How many outcomes Redis has counted."""
    async with Redis.from_url(stage.redis.url, protocol=2) as redis:
        return await counter(redis, "processed")


def _check(stage: Stage, books: Books, frozen: set[int], thawed: int) -> None:
    stories = stage.ledger.tasks
    lost = [
        run
        for story in stories.values()
        for run in story.runs
        if run.pid in frozen and run.how == "cancelled:lease-lost"
    ]
    noticed = max(((run.ended - thawed) / SECOND for run in lost), default=0.0)
    undisturbed = [task_id for task_id, story in stories.items() if _was_taken_over(story, frozen)]
    kept_on = [
        task_id
        for task_id, story in stories.items()
        if task_id.startswith("long") and not _was_cancelled(story, frozen)
    ]
    books.result.figures |= {
        "frozen_workers": len(frozen),
        "taken_over": len(undisturbed),
        "cancelled_lease_lost": len(lost),
        "noticed_after_max_s": round(noticed, 2),
    }
    books.demand_none(stories.keys() - set(undisturbed), "tasks not finished by who took them over")
    books.demand_none(kept_on, "handlers that were not told of their loss")
    books.demand_soon(noticed, NOTICE, "to notice a loss")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died")


def _was_taken_over(story: Story, frozen: set[int]) -> bool:
    """Whether it ran twice, first on a worker that froze, then to its end on one that did not."""
    return (
        len(story.runs) == 2
        and story.runs[0].pid in frozen
        and story.runs[1].pid not in frozen
        and story.runs[1].how == "ok"
    )


def _was_cancelled(story: Story, frozen: set[int]) -> bool:
    return any(run.pid in frozen and run.how == "cancelled:lease-lost" for run in story.runs)


SCENARIOS = (
    Scenario(
        name="stall",
        promises="a worker that stood still until its tasks were given away can neither settle nor keep them",
        run=run,
        ci=Size(seconds=0, tasks=20, faults=1),
        long=Size(seconds=0, tasks=300, faults=6),
    ),
)
