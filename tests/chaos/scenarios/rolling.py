"""Rolling restarts by SIGTERM under load: no retry burned, nothing finished runs again, everybody leaves in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.accounts import percentile
from tests.chaos.fleet import Worker
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged

WORKERS = 3
SHUTDOWN_TIMEOUT = 2.0

#: Seconds past the timeout in which a worker must have ended.
GRACE = 2.0


def orders(stage: Stage) -> Iterator[Order]:
    """Mostly 5-50 ms; every hundredth outlasts the shutdown of its worker, and has to be handed back."""
    for number in range(stage.settings.tasks):
        milliseconds = (2_500, 3_500) if number % 100 == 0 else (5, 50)
        yield Order(f"r{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(settings: Settings) -> Result:
    exits: list[float] = []
    late: list[str] = []
    async with staged(settings, concurrency=50, shutdown_timeout=SHUTDOWN_TIMEOUT) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            async for _ in stage.at_intervals(settings.faults):
                oldest = (await stage.ready_workers())[0]
                oldest.wanted = False
                group.create_task(_replace(stage, oldest, exits, late))
        books = await stage.close_books()
    longest = SHUTDOWN_TIMEOUT + GRACE * settings.slack
    slow = [f"{seconds:.2f} s" for seconds in exits if seconds > longest]
    books.result.figures |= {
        "exit_p50_s": round(percentile(exits, 50), 2),
        "exit_max_s": round(max(exits, default=0.0), 2),
        "handed_back": _handed_back(stage),
    }
    books.demand_some(len(exits), "exits")
    books.demand_none(slow + late, f"exits later than {longest:g} s")
    books.demand_none(stage.fleet.deaths, "workers left with an error")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(books.accounts.finished_again, "finished tasks run again")
    return books.result


async def _replace(stage: Stage, worker: Worker, exits: list[float], late: list[str]) -> None:
    """As a deployment does: the worker leaves once its successor is ready."""
    try:
        await stage.fleet.ready(stage.fleet.start())
        exits.append(await stage.fleet.terminate(worker))
    except TimeoutError as error:
        late.append(str(error))


def _handed_back(stage: Stage) -> int:
    runs = (run for story in stage.ledger.tasks.values() for run in story.runs)
    return sum(run.how == "cancelled:server-shutdown" for run in runs)


SCENARIOS = (
    Scenario(
        name="rolling",
        promises="SIGTERM burns no retry, runs nothing again that finished, and takes shutdown_timeout + 2 s at most",
        run=run,
        ci=Size(seconds=18, tasks=3_000, faults=12),
        long=Size(seconds=260, tasks=50_000, faults=200),
        engines=("asynqpy", "go"),
    ),
)
