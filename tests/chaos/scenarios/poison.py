"""Crashes of tasks that may not be retried: none is archived for it, but for poison pills, at their third crash.

A poison pill kills whichever worker runs it, and with it all that runs beside it: those must not pay for it. Where
another task was there each time too, neither is archived at the third crash, but once they have parted company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.chaos.accounts import CRASHES_OF_POISON
from tests.chaos.books import Books
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.scenarios.kills import check_crashes, kill_some
from tests.chaos.stage import Stage, staged

WORKERS = {"ci": 4, "long": 8}

#: One poison pill for so many kills from outside, and how their ids begin.
KILLS_PER_PILL = 12
PILL = "pill"

#: Share of the bystanders that may be taken for pills.
_MISTAKEN = 0.001

#: Seconds for the drain: suspects that keep each other company are parted for up to two minutes at a time.
_DRAIN = 400.0


def pills(settings: Settings) -> int:
    return max(1, settings.faults // KILLS_PER_PILL)


def orders(stage: Stage) -> Iterator[Order]:
    """The pills come in the first half of the load; half of them would have retries left."""
    settings = stage.settings
    every = settings.tasks // 2 // pills(settings)
    for number in range(settings.tasks):
        pill, rest = divmod(number, every)
        if rest == every // 2 and pill < pills(settings):
            options = {"max_retry": 5 * (pill % 2)}
            yield Order(f"{PILL}{pill}", "poison", {"ms": 300}, options)
        milliseconds = (300, 900) if number % 8 == 0 else (5, 50)
        payload = {"ms": stage.random.randint(*milliseconds)}
        yield Order(f"b{number}", "sleep", payload, {"max_retry": 0})


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=50) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS[settings.size]))
        stage.replaces_dead = True
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            group.create_task(kill_some(stage))
        books = await stage.close_books(within=_DRAIN)
    check_crashes(books)
    _check_pills(stage, books)
    return books.result


def _check_pills(stage: Stage, books: Books) -> None:
    swallowed = {f"{PILL}{number}" for number in range(pills(stage.settings))}
    archived = books.verdict.archived
    books.result.figures["poison_pills"] = len(swallowed)
    books.result.figures["bystanders_archived"] = len(archived.keys() - swallowed)
    # One that kills from outside have hit three times in a row cannot be told from a pill: a very few are.
    bystanders = archived.keys() - swallowed
    if len(bystanders) > stage.settings.tasks * _MISTAKEN:
        books.demand_none(bystanders, "bystanders archived")
    books.demand_none(swallowed - archived.keys(), "poison pills still about")
    for pill in sorted(swallowed & archived.keys()):
        crashes = len(stage.ledger.tasks[pill].runs)
        named = archived[pill].startswith("poison pill")
        books.demand(
            named and crashes >= CRASHES_OF_POISON,
            f"{pill} was archived after {crashes} crashes: {archived[pill]}",
        )


SCENARIOS = (
    Scenario(
        name="poison",
        promises="a crash never archives a task without retries; a poison pill is archived at its third crash",
        run=run,
        ci=Size(seconds=15, tasks=1_500, faults=4),
        long=Size(seconds=240, tasks=30_000, faults=60),
        engines=("asynqpy", "go"),
    ),
)
