"""Workers whose clocks are two minutes off, one fast and one slow: no lease is taken early, no task starts early.

Halfway the only one with the right time is killed, if faults are asked for: the others have to notice, and in time.
They have so few places that some of the tasks are its own; one with a wrong clock comes in its stead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from tests.chaos.ledger import SECOND
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.scenarios.kills import check_crashes
from tests.chaos.stage import Stage, staged

SKEW = 120.0

#: Delay (s) of every tenth task, whose id ends with when it is due, and how early (s) is early: half of a slow round
#: trip is the error of an anchored clock.
DELAY = 6
EARLY = 0.5

#: The longest tasks (s), which outlast a lease in the long run.
LONGEST = {"ci": (12, 20), "long": (40, 60)}

#: Places of a worker whose clock is off: of two together not enough for what runs at a time, halfway some 55 tasks and
#: 150. One that is alone could do it all.
PLACES = {"ci": 20, "long": 50}

#: Tasks that have to run at a worker before it is killed. They take seconds: one at least will not have ended.
HELD = 3


def orders(stage: Stage) -> Iterator[Order]:
    shortest, longest = LONGEST[stage.settings.size]
    for number in range(stage.settings.tasks):
        seconds = (shortest, longest) if number % 10 == 0 else (1, 4)
        milliseconds = stage.random.randint(seconds[0] * 1000, seconds[1] * 1000)
        if number % 10 == 5:
            due = int(time.time()) + DELAY
            options = {"process_at": datetime.fromtimestamp(due, UTC)}
            yield Order(f"later-{number}-{due}", "sleep", {"ms": 50}, options)
        else:
            yield Order(f"s{number}", "sleep", {"ms": milliseconds})


async def run(settings: Settings) -> Result:
    async with staged(settings, concurrency=100) as stage:
        fleet, places = stage.fleet, PLACES[settings.size]
        (honest,) = fleet.start()
        fast, slow = (fleet.start(skew=skew, concurrency=places) for skew in (SKEW, -SKEW))
        await fleet.ready([honest, *fast, *slow])
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
            async for _ in stage.at_intervals(min(settings.faults, 1)):
                await stage.until_busy(honest, HELD)
                await fleet.kill(honest)
                fleet.start(skew=SKEW)
        books = await stage.close_books(within=150)
    early = _started_early(stage)
    books.result.figures |= {
        "skew_s": SKEW,
        "early_recoveries": len(books.accounts.unexcused),
        "early_starts": len(early),
    }
    check_crashes(books)
    books.demand_none(early, "delayed tasks started early")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


def _started_early(stage: Stage) -> list[str]:
    return [
        task_id
        for task_id, story in stage.ledger.tasks.items()
        if task_id.startswith("later")
        for due in [int(task_id.rsplit("-", 1)[1])]
        if any(run.started < (due - EARLY) * SECOND for run in story.runs)
    ]


SCENARIOS = (
    Scenario(
        name="skew",
        promises="clocks that are 120 s off recover nothing early, and start nothing early",
        run=run,
        ci=Size(seconds=16, tasks=320, faults=1),
        long=Size(seconds=180, tasks=4_000, faults=1),
    ),
)
