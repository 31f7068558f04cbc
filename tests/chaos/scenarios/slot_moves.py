"""Slots of busy queues move from one primary of a cluster to another, key by key, under load.

While a part of its keys is here and a part there, a queue stands still, and nothing of it may be taken for damaged.
Once its slot has arrived it goes on there. Nobody has died: there is no excuse for a second run.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial

from tests.chaos.books import Books
from tests.chaos.engines import PATIENCE
from tests.chaos.ledger import SECOND
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.shards import (
    first_start,
    longest_gap,
    produce_everywhere,
    runs_in,
    spread_queues,
)
from tests.chaos.stage import Stage, staged
from tests.raw_redis import keys_of, raw_client
from tests.redis_state import counter
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

WORKERS = 2

#: Seconds from the end of a move until tasks of the queue start again.
RESUMED = 5.0

#: Seconds in which no task of any other queue starts, at most.
STALL = 2.0

#: Seconds that a move takes at least: as long as that, some keys are here and some there.
SLOW = 2.0

#: Keys that are carried together.
_SOME = 20


@dataclass(frozen=True, slots=True)
class Move:
    """From ``begin`` to ``end`` (unix ns); ``keys`` that were carried."""

    queue: str
    begin: int
    end: int
    keys: int


def an_order(stage: Stage, queue: str, number: int) -> Order:
    """By turns now, later, retried, kept, unique: so that each kind of key is there to be moved."""
    payload = {"ms": stage.random.randint(5, 50), "n": number}
    kinds: list[tuple[str, dict[str, int], dict[str, float]]] = [
        ("sleep", {}, {}),
        ("sleep", {}, {"process_in": 3}),
        ("fail", {"fails": 1}, {}),
        ("result", {}, {"retention": 600}),
        ("sleep", {}, {"unique": 600}),
        ("sleep", {"ms": 600}, {}),
    ]
    kind, more, options = kinds[number % len(kinds)]
    return Order(f"{queue}-{number}", kind, payload | more, {"queue": queue, **options})


async def run(settings: Settings) -> Result:
    cluster = start_cluster(3)
    queues = spread_queues(cluster)
    moves: list[Move] = []
    staging = staged(settings, redis=cluster, queues=queues, concurrency=50, retry_delay=1)
    async with staging as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        async with asyncio.TaskGroup() as group:
            group.create_task(produce_everywhere(stage, an_order))
            async for _ in stage.at_intervals(settings.faults):
                moves.append(await _move(stage, cluster))
        books = await stage.close_books(within=PATIENCE[settings.engine])
        set_aside, settled = await _counted(stage)
    books.result.marks = [((move.begin - stage.started_ns) / SECOND, "slot-move") for move in moves]
    _count(stage, books, moves)
    books.result.figures |= {"set_aside": len(set_aside), "settled": settled}
    books.demand_none(set_aside, "keys of a quarantine")
    runs = books.result.figures["executions"]
    books.demand(settled == runs, f"{settled} outcomes were written of {runs} runs")
    return books.result


async def _move(stage: Stage, cluster: ClusterProcesses) -> Move:
    queue = stage.random.choice(list(stage.queues))
    key = f"asynq:{{{queue}}}:pending"
    source = await asyncio.to_thread(cluster.primary_of, key)
    others = [node for node in cluster.nodes if node is not source]
    stage.random.shuffle(others)
    slot = MovingSlot(cluster.slot_of(key), source, others[0], others[1:])
    begin, keys = time.time_ns(), 0
    await asyncio.to_thread(slot.begin)
    while left := await asyncio.to_thread(slot.left):
        # In no order: any part of a queue may be here, and the rest there.
        stage.random.shuffle(left)
        pause = SLOW * _SOME / len(left) if not keys else 0.0
        for place in range(0, len(left), _SOME):
            await asyncio.to_thread(slot.carry, *left[place : place + _SOME])
            await asyncio.sleep(pause)
        keys += len(left)
    await asyncio.to_thread(slot.end)
    return Move(queue, begin, time.time_ns(), keys)


async def _counted(stage: Stage) -> tuple[list[str], int]:
    """The keys of quarantines, and how many outcomes Redis has counted."""
    async with raw_client(stage.redis.url) as redis:
        set_aside = [name.decode() for name in await keys_of(redis, "*quarantine*")]
        counted = [await counter(redis, "processed", queue) for queue in stage.queues]
    return set_aside, sum(counted)


def _count(stage: Stage, books: Books, moves: list[Move]) -> None:
    ledger, figures = stage.ledger, books.result.figures
    of = partial(runs_in, ledger)
    resumed = [first_start(of([move.queue]), move.end) for move in moves]
    others = [
        longest_gap(of(stage.queues.keys() - {move.queue}), move.begin, move.end) for move in moves
    ]
    figures |= {
        "moves": len(moves),
        "keys_moved": sum(move.keys for move in moves),
        "move_max_s": round(max((move.end - move.begin) / SECOND for move in moves), 2),
        "resumed_after_move_max_s": round(max(resumed), 2),
        "others_stalled_max_s": round(max(others), 2),
        "enqueues_uncertain": sum(story.doubts for story in ledger.tasks.values()),
    }
    books.demand_soon(figures["resumed_after_move_max_s"], RESUMED, "to go on after a move")
    books.demand_soon(figures["others_stalled_max_s"], STALL, "a stall of the other queues")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died because a slot moved")


SCENARIOS = (
    Scenario(
        name="slot-moves",
        promises="slots of busy queues move under load: nothing lost, set aside or run twice; queues go on at once",
        run=run,
        ci=Size(seconds=18, tasks=2_400, faults=2),
        long=Size(seconds=120, tasks=36_000, faults=5),
    ),
)
