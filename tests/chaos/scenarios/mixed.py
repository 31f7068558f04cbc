"""Workers of asynqpy and of Go's asynq on one queue, and SIGKILLs among them: each keeps its promise beside the other.

A task that an asynqpy worker dies with is back before Go's recoverer would make a failure of it. One that a Go worker
dies with comes back as late as with Go alone: its lease is all that is known of it, and who is first counts a failure
or does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.accounts import percentile
from tests.chaos.books import Books
from tests.chaos.fleet import Worker
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.scenarios.kills import SOON
from tests.chaos.stage import Stage, staged

#: Of each kind.
WORKERS = 3


def orders(stage: Stage) -> Iterator[Order]:
    for number in range(stage.settings.tasks):
        milliseconds = (200, 800) if number % 8 == 0 else (5, 50)
        yield Order(f"m{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=30) as stage:
        for engine in ("asynqpy", "go"):
            await stage.fleet.ready(stage.fleet.start(WORKERS, engine=engine))
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            group.create_task(_kill_some(stage))
        books = await stage.close_books(within=240)
    _check(stage, books)
    return books.result


async def _kill_some(stage: Stage) -> None:
    """One of ours and one of Go's by turns; of ours alone in the small size, as Go's take a minute to be missed."""
    async for number in stage.at_intervals(stage.settings.faults):
        engine = "go" if number % 2 and stage.settings.size == "long" else "asynqpy"
        await stage.fleet.kill(await _one_of(stage, engine))
        stage.fleet.start(engine=engine)


async def _one_of(stage: Stage, engine: str) -> Worker:
    ready = [worker for worker in await stage.ready_workers() if worker.engine == engine]
    return stage.random.choice(ready)


def _check(stage: Stage, books: Books) -> None:
    pids = {worker.pid for worker in stage.fleet.workers if worker.engine == "go"}
    runs = {
        task_id: {run.pid for run in story.runs} for task_id, story in stage.ledger.tasks.items()
    }
    killed_go = pids & {fault.pid for fault in stage.ledger.faults}
    ours = [task_id for task_id in books.accounts.burned if not runs[task_id] & killed_go]
    of = {"asynqpy": books.accounts.first_restarts(lambda pid: pid not in pids)}
    of["go"] = books.accounts.first_restarts(lambda pid: pid in pids)
    for engine, seconds in of.items():
        books.result.figures |= {
            f"restarts_after_{engine}": len(seconds),
            f"restart_p99_after_{engine}_s": round(percentile(seconds, 99), 2),
        }
    books.result.figures["retries_burned_after_asynqpy"] = len(ours)
    books.demand_some(len(of["asynqpy"]), "restarts after asynqpy")
    books.demand_soon(percentile(of["asynqpy"], 99), SOON, "restart p99 after asynqpy")
    books.demand_none(ours, "tasks with retries burned, though no Go worker died with them")
    books.demand_none(stage.fleet.deaths, "workers died")


SCENARIOS = (
    Scenario(
        name="mixed",
        promises="beside Go workers too: nothing lost or stuck, a killed asynqpy worker costs no retry, p99 <= 15 s",
        run=run,
        ci=Size(seconds=20, tasks=2_000, faults=5),
        long=Size(seconds=300, tasks=60_000, faults=100),
        needs_go=True,
    ),
)
