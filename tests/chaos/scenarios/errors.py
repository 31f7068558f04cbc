"""Calls on Redis fail at random in every worker and producer, before or after they were executed.

Retries, results and scheduled tasks are in the load, so that every script has its share.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.engines import PATIENCE
from tests.chaos.failing import failing_calls
from tests.chaos.producer import OWN_CONFLICT, Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged

WORKERS = 2

#: Share of all round trips; a CI run is short and has more.
RATES = {"ci": 0.02, "long": 0.005}

#: What is done is kept for a while, so that an enqueue repeated too late finds its id taken.
RETENTION = 600


def orders(stage: Stage) -> Iterator[Order]:
    kinds = {
        "sleep": {},
        "result": {},
        "fail": {"fails": 1},
        "later": {},
    }
    for number in range(stage.settings.tasks):
        kind = stage.random.choices(list(kinds), (6, 2, 1, 1))[0]
        options = {"retention": RETENTION}
        if kind == "later":
            options["process_in"] = 1
        payload = {"ms": stage.random.randint(1, 20), **kinds[kind]}
        yield Order(f"{kind}-{number}", kind.replace("later", "sleep"), payload, options)


async def run(settings: Settings) -> Result:
    rate = RATES[settings.size]
    async with staged(settings, concurrency=30, error_rate=rate, retry_delay=1) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        with failing_calls(rate, stage.random) as failures:
            await stage.produce(orders(stage), settings.tasks / settings.seconds)
        books = await stage.close_books(within=PATIENCE[settings.engine])
    conflicts, failed = stage.ledger.notes.count(OWN_CONFLICT), _failed_by_redis(stage)
    books.result.figures |= {
        "error_rate": rate,
        "producer_calls": failures.calls,
        "producer_errors": failures.all,
        "false_conflicts": conflicts,
        "failed_by_redis": len(failed),
    }
    books.demand_some(books.result.figures["producer_errors"], "failed calls")
    books.demand(not conflicts, f"{conflicts} enqueues told of a conflict with themselves")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(failed, "tasks that burned a retry because a call of theirs on Redis failed")
    books.demand_none(stage.fleet.deaths, "workers died")
    return books.result


def _failed_by_redis(stage: Stage) -> list[str]:
    """Tasks whose handler failed, though not on purpose: the error of a call that it made came through."""
    tasks = stage.ledger.tasks.items()
    return [
        task_id for task_id, story in tasks if story.failures and not task_id.startswith("fail-")
    ]


SCENARIOS = (
    Scenario(
        name="errors",
        promises="0.5 % of all calls on Redis fail: all that was acknowledged finishes once, no retry burned",
        run=run,
        ci=Size(seconds=10, tasks=2_000),
        long=Size(seconds=240, tasks=60_000),
    ),
)
