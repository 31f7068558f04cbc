"""SIGKILL of random workers under load: nothing lost, nothing stuck, only what was in flight runs again, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.books import Books
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged

WORKERS = {"ci": 4, "long": 8}

#: Seconds from a kill until the tasks in flight at it have started again, for 99 of 100.
SOON = 15.0


def orders(stage: Stage) -> Iterator[Order]:
    """Mostly 5-50 ms; an eighth takes 0.2-0.8 s, so that every kill finds some of them running.

    Longer ones would be in flight at three of these kills now and then, and be taken for poison pills.
    """
    for number in range(stage.settings.tasks):
        milliseconds = (200, 800) if number % 8 == 0 else (5, 50)
        yield Order(f"k{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=50) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS[settings.size]))
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            group.create_task(kill_some(stage))
        books = await stage.close_books()
    check_crashes(books)
    return books.result


async def kill_some(stage: Stage) -> None:
    """Evenly over the time of the load, each replaced at once."""
    async for _ in stage.at_intervals(stage.settings.faults):
        await stage.fleet.kill(await stage.some_worker())
        stage.fleet.start()


def check_crashes(books: Books) -> None:
    """What holds whenever workers crash: a crash is no failure, and what was running is soon running again."""
    figures = books.result.figures
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(
        books.accounts.few_crashes, "tasks taken for poison pills before three crashes"
    )
    books.demand_some(figures["restarts_measured"], "restarts")
    books.demand_soon(figures["restart_p99_s"], SOON, "restart p99")


SCENARIOS = (
    Scenario(
        name="kills",
        promises="nothing lost or stuck, only tasks in flight at a kill run again, restart p99 <= 15 s",
        run=run,
        ci=Size(seconds=20, tasks=4_000, faults=12),
        long=Size(seconds=350, tasks=112_000, faults=220),
        engines=("asynqpy", "go"),
    ),
)
