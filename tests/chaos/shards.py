"""Queues over the primaries of a cluster: their names, their load, and how their tasks come along."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count, pairwise
from typing import Any

from tests.chaos.ledger import SECOND, Ledger, Run, Story
from tests.chaos.producer import Order
from tests.chaos.stage import Stage
from tests.redis_process import RedisProcess
from tests.topologies.cluster import ClusterProcesses

#: Queues that each primary has.
EACH = 4


def spread_queues(cluster: ClusterProcesses, prefix: str = "q", each: int = EACH) -> dict[str, int]:
    """Names with the priority 1, so that each primary has the slots of ``each`` of them."""
    found: dict[int, list[str]] = {node.port: [] for node in cluster.primaries()}
    for number in count():
        queue = f"{prefix}{number}"
        its = found[cluster.primary_of_queue(queue).port]
        if len(its) < each:
            its.append(queue)
        if all(len(its) == each for its in found.values()):
            return dict.fromkeys((name for its in found.values() for name in its), 1)
    raise AssertionError


def queues_at(cluster: ClusterProcesses, node: RedisProcess, queues: Iterable[str]) -> set[str]:
    """Those whose slot this primary has now."""
    return {queue for queue in queues if cluster.primary_of_queue(queue) is node}


def queue_of(task_id: str) -> str:
    """Of an order of ``orders_of``."""
    return task_id.partition("-")[0]


async def produce_everywhere(
    stage: Stage, order: Callable[[Stage, str, int], Order], **options: Any
) -> None:
    """The load over all queues, each queue by a producer of its own: none waits for another's node.

    ``options`` are those of their ``Client``.
    """
    tasks, seconds = stage.settings.tasks, stage.settings.seconds
    stage.phase, stage.started_load = "under load", stage.elapsed
    each = tasks // len(stage.queues)
    async with asyncio.TaskGroup() as group:
        for queue in stage.queues:
            orders = map(partial(order, stage, queue), range(each))
            group.create_task(stage.producer(**options).run(orders, each / seconds))


def an_order(stage: Stage, queue: str, number: int) -> Order:
    """Mostly 5-50 ms; an eighth takes 0.2-0.8 s, so that every fault finds some of them running."""
    milliseconds = (200, 800) if number % 8 == 0 else (5, 50)
    payload = {"ms": stage.random.randint(*milliseconds)}
    return Order(f"{queue}-{number}", "sleep", payload, {"queue": queue})


def runs_in(ledger: Ledger, queues: Iterable[str]) -> Iterator[Run]:
    chosen = set(queues)
    for task_id, story in ledger.tasks.items():
        if queue_of(task_id) in chosen:
            yield from story.runs


def longest_gap(runs: Iterable[Run], begin: int, end: int) -> float:
    """Seconds between these instants (unix ns) in which none of the runs started, at a stretch."""
    starts = sorted(run.started for run in runs if begin < run.started < end)
    return max((b - a) / SECOND for a, b in pairwise([begin, *starts, end]))


def first_start(runs: Iterable[Run], after: int) -> float:
    """Seconds from an instant (unix ns) until the first of the runs that started later; infinite without one."""
    return min(
        ((run.started - after) / SECOND for run in runs if run.started > after),
        default=float("inf"),
    )


def extra_runs(stories: Mapping[str, Story]) -> Iterator[tuple[str, Run]]:
    """Each run of a task that was followed by another although it had not failed."""
    for task_id, story in stories.items():
        for previous in story.runs[:-1]:
            if previous.how != "failed":
                yield task_id, previous
