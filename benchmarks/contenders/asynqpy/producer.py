"""Enqueues on asynqpy.

    producer.py <redis URL> fill|sequential|concurrent|bulk <tasks>
    producer.py <redis URL> paced <rate> <seconds>
    producer.py <redis URL> single

``BENCH_PAYLOAD`` (bytes) makes payloads of that size, ``BENCH_QUEUES`` spreads the tasks over so many queues, and
``BENCH_DELAY`` (s) schedules them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

from asynqpy import Client, Task

COROUTINES = 50

#: Tasks of one ``enqueue_many`` of the bulk way, and of one when a million is filled in.
BATCH = 1_000

SIZE = int(os.environ.get("BENCH_PAYLOAD", "0"))
QUEUES = int(os.environ.get("BENCH_QUEUES", "1"))
DELAY = float(os.environ.get("BENCH_DELAY", "0"))


def queue(n: int) -> str:
    return "default" if QUEUES == 1 else f"q{n % QUEUES}"


def task(n: int) -> Task:
    if SIZE or QUEUES > 1 or DELAY:
        return special(n)
    return Task("noop", {"n": n})


def special(n: int) -> Task:
    payload = b"x" * SIZE if SIZE else {"n": n}
    if DELAY:
        return Task("noop", payload, queue=queue(n), process_in=DELAY)
    return Task("noop", payload, queue=queue(n))


async def sequential(client: Client, tasks: int) -> None:
    for n in range(tasks):
        await client.enqueue(task(n))


async def concurrent(client: Client, tasks: int) -> None:
    numbers = iter(range(tasks))

    async def one_of_many() -> None:
        for n in numbers:
            await client.enqueue(task(n))

    async with asyncio.TaskGroup() as group:
        for _ in range(COROUTINES):
            group.create_task(one_of_many())


async def bulk(client: Client, tasks: int) -> None:
    size = max(1, min(BATCH, 16_000_000 // (SIZE or 1)))
    for start in range(0, tasks, size):
        batch = range(start, min(start + size, tasks))
        for outcome in await client.enqueue_many(task(n) for n in batch):
            if isinstance(outcome, Exception):
                raise outcome


def timed(n: int) -> Task:
    """A task that carries when it was meant to be sent."""
    return Task("noop", {"t": n})


async def paced(client: Client, rate: float, seconds: float) -> None:
    """Open loop: each is sent when its time has come, however long the others take."""
    start, gap = time.time_ns() + 100_000_000, 1e9 / rate
    async with asyncio.TaskGroup() as group:
        for n in range(round(rate * seconds)):
            due = start + round(n * gap)
            if (wait := due - time.time_ns()) > 0:
                await asyncio.sleep(wait / 1e9)
            group.create_task(send(client, due))


async def send(client: Client, due: int) -> None:
    await client.enqueue(timed(due))


async def single(client: Client) -> None:
    """One task for each line of stdin."""
    while await asyncio.to_thread(sys.stdin.readline):
        await client.enqueue(timed(time.time_ns()))
        print("sent", flush=True)


WAYS: dict[str, Callable[[Client, int], Awaitable[None]]] = {
    "fill": bulk,
    "sequential": sequential,
    "concurrent": concurrent,
    "bulk": bulk,
}


async def main(url: str, mode: str, *numbers: str) -> None:
    async with Client(url) as client:
        await client.ping()
        if mode == "single":
            await single(client)
            return
        if mode == "paced":
            await paced(client, *map(float, numbers[-2:]))
            return
        started = time.perf_counter()
        await WAYS[mode](client, int(numbers[0]))
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop

        uvloop.run(main(*sys.argv[1:]))
    else:
        asyncio.run(main(*sys.argv[1:]))
