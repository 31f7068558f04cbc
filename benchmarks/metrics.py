"""What metrics cost: throughput with and without an observer, in pairs, and a look at many queues.

python -m benchmarks.metrics [--pairs N] [--tasks N] [--queues N]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from asynqpy import ActiveTask, Client, Server, Task
from asynqpy.metrics import QueueMetrics, WorkerMetrics
from benchmarks.harness.redis_server import BenchRedis


async def rate(url: str, tasks: int, observer: WorkerMetrics | None) -> float:
    """No-op tasks/s of a server, from its first handler to its last."""
    async with Client(url) as client:
        for start in range(0, tasks, 1_000):
            await client.enqueue_many(Task("noop") for _ in range(min(1_000, tasks - start)))
    done, ended, began = asyncio.Event(), 0, 0.0

    async def handle(task: ActiveTask) -> None:
        nonlocal ended, began
        began = began or time.perf_counter()
        ended += 1
        if ended == tasks:
            done.set()

    async with Server(url, concurrency=50, observer=observer).running(handle):
        await done.wait()
        return tasks / (time.perf_counter() - began)


def costs(server: BenchRedis, pairs: int, tasks: int) -> list[float]:
    """Percent of the throughput that each pair loses; another one of the two is first each time."""
    found = []
    for turn in range(pairs):
        rates = {}
        for is_observed in (turn % 2 == 0, turn % 2 == 1):
            server.flush()
            observer = WorkerMetrics() if is_observed else None
            rates[is_observed] = asyncio.run(rate(server.url, tasks, observer))
        found.append(100 * (1 - rates[True] / rates[False]))
    return found


async def looks(url: str, queues: int) -> list[float]:
    """Seconds of some looks at so many queues, the first of which estimate their memory."""
    async with Client(url) as client:
        await client.enqueue_many(Task("noop", queue=f"q{n}") for n in range(queues))
    found = []
    async with QueueMetrics(url, max_age=0, timeout=60) as metrics:
        for _ in range(15):
            began = time.perf_counter()
            await metrics.refresh()
            found.append(time.perf_counter() - began)
    return found


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--pairs", type=int, default=20)
    flags.add_argument("--tasks", type=int, default=20_000)
    flags.add_argument("--queues", type=int, default=1_000)
    chosen = flags.parse_args()
    with BenchRedis() as server:
        lost = costs(server, chosen.pairs, chosen.tasks)
        extremes = f"{min(lost):.1f} to {max(lost):.1f}"
        print(f"observer: {statistics.median(lost):.1f} % ({extremes}) of {chosen.pairs} pairs")
        server.flush()
        seconds = asyncio.run(looks(server.url, chosen.queues))
        print(f"{chosen.queues:,} queues: {seconds[0]:.3f} s at first, {seconds[-1]:.3f} s at last")


if __name__ == "__main__":
    main()
