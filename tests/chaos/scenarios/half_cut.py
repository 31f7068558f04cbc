"""Workers are cut off from half of the nodes of a cluster, while all else is well: refused, or met with silence.

The queues of the other half go on at their pace. What the worker was running of the unreachable queues becomes others'
who still reach them: it is told when its leases are over, and what it says later counts for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from tests.chaos.books import Books
from tests.chaos.engines import PATIENCE
from tests.chaos.fleet import Worker
from tests.chaos.ledger import SECOND, Fault, Run
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.shards import (
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
from tests.raw_redis import raw_client
from tests.redis_process import RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import counter
from tests.topologies.cluster import ClusterProcesses, start_cluster

#: How a node is cut off from a worker, each from a worker of its own at the same time.
WAYS = ("refused", "silent")

#: Lengths of the cuts (s), and of the longest task (ms), by the size of the run.
CUTS = {"ci": (18.0,), "long": (5.0, 20.0, 60.0)}
LONGEST = {"ci": 6_000, "long": 45_000}

#: Handlers of a worker: the one that is left for half of the queues is never full, or what it takes over would wait.
ROOM = 600

#: A cut of so many seconds is one that nobody should notice by what runs.
SHORT = 5.0

#: Seconds in which the worker starts nothing of what it reaches, at most: it waits 2 s for each silent primary, once.
#: Of three some are cut off, and not all.
STALL = 2 * 2.0 + 2.0

#: Seconds in which nobody takes over from a worker that has been heard of.
HELD = 5.0

#: Seconds after a cut in which others have taken over: leases last 30, and 10 more while the worker shows itself at a
#: node that it reaches.
TAKEN_OVER = 30.0 + 10.0 + 5.0

#: Seconds after a cut by which the last lease from before it is over, and its handler cancelled.
CANCELLED_WITHIN = 30.0 + 5.0

#: Seconds that a worker has, once it reaches all again, to take tasks from there.
BACK_WITHIN = 15.0


@dataclass(frozen=True, slots=True)
class Site:
    """A worker, its ways to half of the nodes, and the queues that it reaches by them only.

    Some queues are its ``own``: what starts there, and when, is no matter of who was faster.
    """

    way: str
    worker: Worker
    proxies: list[RedisProxy]
    queues: frozenset[str]
    own: frozenset[str]
    cuts: list[Fault] = field(default_factory=list)


def an_order(stage: Stage, queue: str, number: int) -> Order:
    """Mostly 5-50 ms; one in eight runs for seconds, so that every cut finds some that outlast it."""
    milliseconds = (
        (1_000, LONGEST[stage.settings.size]) if stage.random.random() < 1 / 8 else (5, 50)
    )
    payload = {"ms": stage.random.randint(*milliseconds)}
    return Order(f"{queue}-{number}", "sleep", payload, {"queue": queue})


async def run(settings: Settings) -> Result:
    cluster = start_cluster(3, 1, node_timeout=15_000)
    shared = spread_queues(cluster)
    own = {way: spread_queues(cluster, way, each=1) for way in WAYS}
    queues = shared | own["refused"] | own["silent"]
    async with AsyncExitStack() as stack:
        staging = staged(settings, redis=cluster, queues=queues, concurrency=ROOM)
        stage = await stack.enter_async_context(staging)
        stage.fleet.start(queues=shared)
        sites = [await _site(stage, stack, cluster, way, shared, own[way]) for way in WAYS]
        await stage.fleet.ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(produce_everywhere(stage, an_order))
            group.create_task(_cut_all(stage, sites))
        books = await stage.close_books(within=PATIENCE[settings.engine])
        settled = await _settled(stage)
    for site in sites:
        _count(stage, books, site)
    _check(stage, books, sites, settled)
    return books.result


async def _site(
    stage: Stage,
    stack: AsyncExitStack,
    cluster: ClusterProcesses,
    way: str,
    shared: dict[str, int],
    own: dict[str, int],
) -> Site:
    half = _half(stage, cluster)
    proxies = [
        await stack.enter_async_context(RedisProxy(node.port, keeps_requests=False))
        for node in half
    ]
    detours = {node.port: proxy.port for node, proxy in zip(half, proxies, strict=True)}
    (worker,) = stage.fleet.start(detours=detours, queues=shared | own)
    cut_off = (queues_at(cluster, node, stage.queues) for node in half)
    return Site(way, worker, proxies, frozenset().union(*cut_off), frozenset(own))


def _half(stage: Stage, cluster: ClusterProcesses) -> list[RedisProcess]:
    """Of the nodes, with some of the primaries and not all."""
    primaries = set(cluster.primaries())
    while True:
        half = stage.random.sample(cluster.nodes, len(cluster.nodes) // 2)
        if 0 < len(primaries.intersection(half)) < len(primaries):
            return half


async def _cut_all(stage: Stage, sites: list[Site]) -> None:
    for seconds in CUTS[stage.settings.size]:
        await asyncio.sleep(4)
        async with asyncio.TaskGroup() as group:
            for site in sites:
                group.create_task(_cut(stage, site, seconds))


async def _cut(stage: Stage, site: Site, seconds: float) -> None:
    kind, pid = f"{site.way}-{seconds:g}s", site.worker.pid
    stage.journal.write("fault", extra=kind, pid=pid)
    for proxy in site.proxies:
        proxy.refuses = site.way == "refused"
        proxy.swallows_requests = proxy.swallows_replies = site.way == "silent"
        if proxy.refuses:
            proxy.cut()
    await asyncio.sleep(seconds)
    for proxy in site.proxies:
        proxy.refuses = proxy.swallows_requests = proxy.swallows_replies = False
    stage.journal.write("mended", extra=kind, pid=pid)
    stage.ledger.update()
    site.cuts.append([it for it in stage.ledger.faults if (it.pid, it.kind) == (pid, kind)][-1])
    waited = 0.0
    while not _is_back(stage, site) and waited < BACK_WITHIN:
        await asyncio.sleep(0.1)
        waited += 0.1


def _is_back(stage: Stage, site: Site) -> bool:
    return first_start(_its_runs(stage, site, site.queues), site.cuts[-1].until) < BACK_WITHIN


def _its_runs(stage: Stage, site: Site, queues: Iterable[str]) -> Iterator[Run]:
    return (run for run in runs_in(stage.ledger, queues) if run.pid == site.worker.pid)


async def _settled(stage: Stage) -> int:
    """How many outcomes Redis has counted."""
    async with raw_client(stage.redis.url) as redis:
        return sum([await counter(redis, "processed", queue) for queue in stage.queues])


def _count(stage: Stage, books: Books, site: Site) -> None:
    """What became of the site: its pace, and who took over from it, and when."""
    reached = list(_its_runs(stage, site, site.own - site.queues))
    cut_off = list(_its_runs(stage, site, site.queues))
    gaps = [longest_gap(reached, cut.at, cut.until) for cut in site.cuts]
    shares = [sum(cut.at < run.started < cut.until for run in reached) for cut in site.cuts]
    back = [first_start(cut_off, cut.until) for cut in site.cuts]
    heirs = list(_takeovers(stage, site))
    late = list(_late(cut_off, site.cuts))
    books.result.figures |= {
        f"{site.way}_queues_cut_off": len(site.queues),
        f"{site.way}_runs_meanwhile": sum(shares),
        f"{site.way}_longest_gap_s": round(max(gaps), 2),
        f"{site.way}_back_after_max_s": round(max(back), 2),
        f"{site.way}_taken_over": len(heirs),
        f"{site.way}_taken_over_first_s": round(min(heirs, default=0.0), 2),
        f"{site.way}_taken_over_last_s": round(max(heirs, default=0.0), 2),
        f"{site.way}_cancelled": sum(run.how.startswith("cancelled") for run in cut_off),
    }
    books.demand_soon(max(gaps), STALL, f"{site.way}: a start of a task within reach")
    books.demand_soon(max(back), BACK_WITHIN, f"{site.way}: to take tasks from there again")
    books.demand_soon(max(heirs, default=0.0), TAKEN_OVER, f"{site.way}: to take over")
    books.demand(
        min(heirs, default=HELD) >= HELD, f"{site.way}: tasks taken over that were still held"
    )
    books.demand(not late, f"{site.way}: {len(late)} handlers went on after their lease")


def _takeovers(stage: Stage, site: Site) -> Iterator[float]:
    """Seconds from a cut until a task that the site was running, or could not settle, started elsewhere."""
    for cut in site.cuts:
        for task_id, story in stage.ledger.tasks.items():
            if queue_of(task_id) in site.queues:
                for run, following in zip(story.runs, story.runs[1:], strict=False):
                    if (
                        run.pid == cut.pid != following.pid
                        and cut.excuses(run)
                        and following.started > cut.at
                    ):
                        yield (following.started - cut.at) / SECOND


def _late(runs: Iterable[Run], cuts: Iterable[Fault]) -> Iterator[Run]:
    for cut in cuts:
        end = cut.at + CANCELLED_WITHIN * SECOND
        if end < cut.until:
            yield from (
                run for run in runs if run.started <= cut.at < run.ended and run.ended > end
            )


def _check(stage: Stage, books: Books, sites: list[Site], settled: int) -> None:
    ledger = stage.ledger
    cut_off = {site.worker.pid: site for site in sites}
    elsewhere = [
        task_id
        for task_id, run in extra_runs(ledger.tasks)
        if run.pid not in cut_off or queue_of(task_id) not in cut_off[run.pid].queues
    ]
    short = [
        task_id
        for task_id, run in extra_runs(ledger.tasks)
        if (cuts := [cut for cut in ledger.faults if cut.pid == run.pid and cut.catches(run)])
        and all(cut.until - cut.at < (SHORT + 1) * SECOND for cut in cuts)
    ]
    others = {worker.pid for worker in stage.fleet.workers} - cut_off.keys()
    healthy = [run for run in runs_in(ledger, stage.queues) if run.pid in others]
    gaps = [longest_gap(healthy, cut.at, cut.until) for cut in ledger.faults]
    books.result.figures |= {"settled": settled, "others_longest_gap_s": round(max(gaps), 2)}
    books.demand(settled == ledger.acked, f"{settled} outcomes were written of {ledger.acked}")
    books.demand_none(elsewhere, "runs again of tasks whose node was within reach")
    books.demand_none(short, "tasks that ran again because of a short cut")
    books.demand_none(books.accounts.burned, "tasks with retries burned")
    books.demand_none(stage.fleet.deaths, "workers died")


SCENARIOS = (
    Scenario(
        name="half-cut",
        promises="a worker cut off from half of a cluster goes on with the rest; others take over what it loses",
        run=run,
        ci=Size(seconds=23, tasks=1_800),
        long=Size(seconds=150, tasks=18_000),
    ),
)
