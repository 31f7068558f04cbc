"""No faults at all: what the harness itself sees, and costs, when nothing happens."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged

WORKERS = 2


def orders(stage: Stage) -> Iterator[Order]:
    for number in range(stage.settings.tasks):
        yield Order(f"calm-{number}", "sleep", {"ms": stage.random.randint(5, 50)})


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=20) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        await stage.produce(orders(stage), settings.tasks / settings.seconds)
        books = await stage.close_books(within=30)
    books.demand(books.accounts.extra == 0, "a task ran twice without any fault")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


SCENARIOS = (
    Scenario(
        name="calm",
        promises="without faults every task runs once",
        run=run,
        ci=Size(seconds=3, tasks=600),
        long=Size(seconds=60, tasks=20_000),
        engines=("asynqpy", "go"),
    ),
)
