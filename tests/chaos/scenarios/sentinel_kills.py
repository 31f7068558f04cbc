"""The master that sentinels watch is killed under load, again and again; each time a replica takes over.

Processing must go on within seconds of the switch. A replica may lack the last writes that the master acknowledged:
what that costs is counted. Where ``enqueue`` waits for a replica (``min_replicas``), no acknowledged task may be lost,
as sentinels choose the replica that has most.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.books import Books, some
from tests.chaos.engines import PATIENCE
from tests.chaos.journal import EVERYBODY
from tests.chaos.knocks import knocks, most_within
from tests.chaos.ledger import SECOND, Run
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_process import RedisProcess, wait_for
from tests.topologies.sentinel import MASTER, Replicated, start_replicated

WORKERS = 2

#: Seconds from the switch until a task that was started after it has been processed.
RESUMED = 5.0

#: Attempts of a process to connect, in any second of an outage. The first second is left out: then those whose
#: connections break find out for themselves.
KNOCKS = 2

#: Seconds in which sentinels must choose a master; they wait up to 10 s when their first vote fails.
SWITCHED = 60.0


@dataclass(frozen=True, slots=True)
class Kill:
    """The master at this port dies, and most sentinels name the one at ``heir``; instants are in unix ns."""

    port: int
    heir: int
    at: int
    switched: int


def orders(stage: Stage) -> Iterator[Order]:
    for number in range(stage.settings.tasks):
        milliseconds = (200, 1_500) if number % 8 == 0 else (5, 50)
        yield Order(f"s{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(settings: Settings, min_replicas: int) -> Result:
    # Within a second a busy machine may well miss a sentinel's question: then they replace a master that lives.
    replicated = start_replicated(
        sentinel_config=[f"sentinel down-after-milliseconds {MASTER} 3000"]
    )
    kills: list[Kill] = []
    async with staged(settings, redis=replicated, concurrency=50, knocks=True) as stage:
        await stage.fleet.ready(stage.fleet.start(WORKERS))
        async with asyncio.TaskGroup() as group:
            group.create_task(_produce(stage, min_replicas))
            async for _ in stage.at_intervals(settings.faults):
                kills.append(await _kill(stage, replicated))
        books = await stage.close_books(within=PATIENCE[settings.engine])
    _count(stage, books, kills)
    _check(stage, books, kills, loses=not min_replicas)
    return books.result


async def _produce(stage: Stage, min_replicas: int) -> None:
    settings = stage.settings
    stage.phase, stage.started_load = "under load", stage.elapsed
    producer = stage.producer(min_replicas=min_replicas)
    await producer.run(orders(stage), settings.tasks / settings.seconds)


async def _kill(stage: Stage, replicated: Replicated) -> Kill:
    await asyncio.to_thread(replicated.wait_until_whole, SWITCHED)
    master = await asyncio.to_thread(replicated.master)
    at = time.time_ns()
    stage.journal.write("fault", extra="master-kill", pid=EVERYBODY)
    master.kill()
    await asyncio.to_thread(_wait_for_another, replicated, master)
    switched = time.time_ns()
    stage.journal.write("mended", extra="master-kill", pid=EVERYBODY)
    heir = await asyncio.to_thread(replicated.wait_for_switch, master, SWITCHED)
    replicated.restart(master)  # not in a thread: it would end with it
    return Kill(master.port, heir.port, at, switched)


def _wait_for_another(replicated: Replicated, master: RedisProcess) -> None:
    wait_for(
        lambda: replicated.master() is not master, lambda: "no other master is named", SWITCHED
    )


def _count(stage: Stage, books: Books, kills: list[Kill]) -> None:
    resumed = _resumed(stage, kills)
    asked_for = [kill.heir for kill in kills[:-1]]
    books.result.figures |= {
        "switch_max_s": round(max((it.switched - it.at) / SECOND for it in kills), 2),
        "resumed_max_s": round(max(resumed), 2),
        "switches_unasked": sum(
            it != kill.port for it, kill in zip(asked_for, kills[1:], strict=True)
        ),
        "connects_per_s": max(_knocks(stage, kills, 1.0, SWITCHED)),
        "connects_in_first_s": max(_knocks(stage, kills, 0.0, 1.0)),
        "enqueues_uncertain": sum(story.doubts for story in stage.ledger.tasks.values()),
    }
    books.result.notes.append(
        f"processing went on so many seconds after each switch: {', '.join(f'{it:.2f}' for it in resumed)}"
    )


def _resumed(stage: Stage, kills: list[Kill]) -> list[float]:
    """Seconds from each switch to the end of the first task that was started after it."""
    runs = sorted(_runs(stage), key=lambda it: it.started)
    starts = [it.started for it in runs]
    seconds = []
    for kill in kills:
        after = runs[bisect_right(starts, kill.switched) :]
        ended = min((it.ended for it in after if it.how == "ok"), default=None)
        seconds.append(float("inf") if ended is None else (ended - kill.switched) / SECOND)
    return seconds


def _runs(stage: Stage) -> Iterator[Run]:
    for story in stage.ledger.tasks.values():
        yield from story.runs


def _knocks(stage: Stage, kills: list[Kill], begin: float, end: float) -> Iterator[int]:
    """How often each process tried to reach the dead master within any second of this part of its outage."""
    for kill in kills:
        since = kill.at + int(begin * SECOND)
        until = min(kill.switched, kill.at + int(end * SECOND))
        for instants in knocks(stage.settings.folder, [kill.port]):
            yield most_within((it for it in instants if since <= it < until), SECOND)


def _check(stage: Stage, books: Books, kills: list[Kill], *, loses: bool) -> None:
    figures, result = books.result.figures, books.result
    books.demand_soon(figures["resumed_max_s"], RESUMED, "to go on after the switch")
    books.demand_some(len(kills), "kills")
    books.demand(figures["connects_per_s"] <= KNOCKS, f"{figures['connects_per_s']} connects/s")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died because the master did")
    if loses and books.accounts.lost:
        result.breaches = [breach for breach in result.breaches if " tasks lost" not in breach]
        result.notes.append(
            f"{figures['lost']:,} of {figures['acknowledged']:,} acknowledged tasks lost in "
            f"{figures['faults']} kills: {some(books.accounts.lost)}"
        )


def _scenario(name: str, promises: str, *, min_replicas: int = 0) -> Scenario:
    play: Callable[[Settings], Coroutine[Any, Any, Result]] = partial(
        run, min_replicas=min_replicas
    )
    return Scenario(
        name,
        promises,
        play,
        ci=Size(seconds=12, tasks=1_200, faults=1),
        long=Size(seconds=330, tasks=66_000, faults=20),
    )


SCENARIOS = (
    _scenario(
        "sentinel-kills",
        "masters killed under sentinels: processing goes on within 5 s of the switch, nothing is stuck",
    ),
    _scenario(
        "sentinel-kills-replicated",
        "the same with min_replicas=1 on enqueue: nothing is lost either",
        min_replicas=1,
    ),
)
