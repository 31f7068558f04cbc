"""A handler that blocks its event loop for longer than a lease: its worker loses nothing, and everything runs once."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_state import ask, scores

#: Tasks that run beside the one that blocks; their leases are in its hands.
COMPANIONS = 8


async def run(settings: Settings) -> Result:
    blocking = [Order("blocking", "block", {"ms": settings.seconds * 1000})]
    beside = [Order(f"beside{n}", "sleep", {"ms": 2000}) for n in range(COMPANIONS)]
    others = (Order(f"other{n}", "sleep", {"ms": 20}) for n in range(settings.tasks))
    async with staged(settings, concurrency=COMPANIONS + 1) as stage:
        await stage.fleet.ready(stage.fleet.start())
        await stage.produce(beside)
        await stage.until_started([order.task_id for order in beside])
        await stage.produce(blocking)
        await stage.until_started(["blocking"])
        # This one would take over whatever seems to be forsaken.
        await stage.fleet.ready(stage.fleet.start())
        watching = asyncio.create_task(_shortest_lease(stage))
        await stage.produce(others, settings.tasks / settings.seconds)
        books = await stage.close_books(within=settings.seconds + 30)
        watching.cancel()
        shortest = await watching
    books.result.figures |= {
        "blocked_s": settings.seconds,
        "leases_held": COMPANIONS + 1,
        "shortest_lease_s": round(shortest, 1),
        "leases_lost": books.accounts.extra,
    }
    books.demand(0 < shortest < float("inf"), f"the shortest lease had {shortest:.1f} s left")
    books.demand(books.accounts.extra == 0, "a task ran twice")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


async def _shortest_lease(stage: Stage) -> float:
    """The least time (s) that a lease had left at any look until cancelled."""
    shortest = float("inf")
    async with Redis.from_url(stage.redis.url, protocol=2) as redis:
        try:
            while True:
                now = int((await ask(redis, "TIME"))[0])
                shortest = min(
                    [shortest, *(s - now for s in (await scores(redis, "lease")).values())]
                )
                await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            return shortest


SCENARIOS = (
    Scenario(
        name="blocked",
        promises="a handler that blocks its loop costs no lease: every task runs once",
        run=run,
        ci=Size(seconds=35, tasks=350),
        long=Size(seconds=90, tasks=4_500),
    ),
)
