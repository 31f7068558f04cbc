"""Primaries of a cluster are killed under load; a replica takes over, and the dead node comes back as one.

What a primary had acknowledged and not yet sent to its replica dies with it: such losses are counted. Where ``enqueue``
waits for the replica (``min_replicas``) there is none. Queues of other primaries have no part in any of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.books import Books, some
from tests.chaos.engines import PATIENCE
from tests.chaos.journal import EVERYBODY
from tests.chaos.ledger import SECOND, Fault
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.shards import (
    an_order,
    extra_runs,
    first_start,
    longest_gap,
    produce_everywhere,
    queue_of,
    queues_at,
    runs_in,
    spread_queues,
)
from tests.chaos.stage import Stage, staged
from tests.topologies.cluster import ClusterProcesses, start_cluster

WORKERS = 2

#: Seconds from the switch to the replica until tasks of its queues start again.
RESUMED = 5.0

#: Seconds in which no task of any other primary starts, at most: what is away holds nobody up.
STALL = 2.0

#: Seconds from the switch until the dead node is started again.
AWAY = 1.0


@dataclass(frozen=True, slots=True)
class Kill:
    """``fault`` lasts until the replica has taken over; ``queues`` were those of the node."""

    fault: Fault
    queues: frozenset[str]


async def run(settings: Settings, min_replicas: int) -> Result:
    # Else all nodes refuse to serve while one is away.
    cluster = start_cluster(3, 1, "--cluster-require-full-coverage", "no")
    queues = spread_queues(cluster)
    kills: list[Kill] = []
    async with staged(settings, redis=cluster, queues=queues, concurrency=50) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        async with asyncio.TaskGroup() as group:
            group.create_task(produce_everywhere(stage, an_order, min_replicas=min_replicas))
            async for _ in stage.at_intervals(settings.faults):
                kills.append(await _kill(stage, cluster))
        books = await stage.close_books(within=PATIENCE[settings.engine])
    _count(stage, books, kills)
    _check(stage, books, kills, loses=not min_replicas)
    return books.result


async def _kill(stage: Stage, cluster: ClusterProcesses) -> Kill:
    queue = stage.random.choice(list(stage.queues))
    victim = await asyncio.to_thread(cluster.primary_of_queue, queue)
    queues = await asyncio.to_thread(queues_at, cluster, victim, stage.queues)
    stage.journal.write("fault", extra="primary-kill", pid=EVERYBODY)
    victim.kill()
    await asyncio.to_thread(cluster.wait_for_heir, victim, f"asynq:{{{queue}}}:pending")
    stage.journal.write("mended", extra="primary-kill", pid=EVERYBODY)
    stage.ledger.update()
    await asyncio.sleep(AWAY)
    cluster.restart(victim)  # not in a thread: it would end with it
    await asyncio.to_thread(cluster.wait_until_whole, 60)
    return Kill(stage.ledger.faults[-1], frozenset(queues))


def _count(stage: Stage, books: Books, kills: list[Kill]) -> None:
    ledger = stage.ledger
    outages = [(kill.fault.until - kill.fault.at) / SECOND for kill in kills]
    resumed = [first_start(runs_in(ledger, kill.queues), kill.fault.until) for kill in kills]
    gaps = [
        longest_gap(
            runs_in(ledger, stage.queues.keys() - kill.queues), kill.fault.at, kill.fault.until
        )
        for kill in kills
    ]
    books.result.figures |= {
        "fail_over_max_s": round(max(outages), 2),
        "resumed_after_switch_max_s": round(max(resumed), 2),
        "others_stalled_max_s": round(max(gaps), 2),
        "enqueues_uncertain": sum(story.doubts for story in ledger.tasks.values()),
    }


def _check(stage: Stage, books: Books, kills: list[Kill], *, loses: bool) -> None:
    figures, result = books.result.figures, books.result
    elsewhere = [
        task_id
        for task_id, run in extra_runs(stage.ledger.tasks)
        if not stage.ledger.tasks[task_id].doubts
        and not any(queue_of(task_id) in it.queues and it.fault.excuses(run) for it in kills)
    ]
    books.demand_none(elsewhere, "runs again of tasks that were not in flight at their own node")
    books.demand_soon(figures["resumed_after_switch_max_s"], RESUMED, "to go on after the switch")
    books.demand_soon(figures["others_stalled_max_s"], STALL, "a stall of the other primaries")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died because a primary did")
    if loses and books.accounts.lost:
        result.breaches = [breach for breach in result.breaches if " tasks lost" not in breach]
        result.notes.append(
            f"{figures['lost']:,} of {figures['acknowledged']:,} acknowledged tasks lost in "
            f"{figures['faults']} kills: {some(books.accounts.lost)}"
        )


def _scenario(name: str, promises: str, ci: Size, long: Size, *, min_replicas: int = 0) -> Scenario:
    play: Callable[[Settings], Coroutine[Any, Any, Result]] = partial(
        run, min_replicas=min_replicas
    )
    return Scenario(name, promises, play, ci, long)


_LONG = Size(seconds=240, tasks=60_000, faults=10)

SCENARIOS = (
    _scenario(
        "cluster-kill",
        "one of 3 primaries of 12 queues killed half-way: all processed but what its replica lacked, which is counted",
        Size(seconds=14, tasks=4_200, faults=1),
        Size(seconds=40, tasks=20_400, faults=1),
    ),
    _scenario(
        "cluster-kills",
        "the same again and again; the dead node comes back as a replica: nothing stuck, other primaries go on",
        Size(seconds=24, tasks=2_400, faults=2),
        _LONG,
    ),
    _scenario(
        "cluster-kills-replicated",
        "the same with min_replicas=1 on enqueue: nothing lost",
        Size(seconds=24, tasks=2_400, faults=2),
        _LONG,
        min_replicas=1,
    ),
)
