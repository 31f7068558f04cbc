"""No task queue: what redis-py's asyncio client does with one LPUSH for each call.

producer.py <redis URL> sequential|concurrent|bulk <tasks>
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import redis.asyncio

COROUTINES = 50
BATCH = 1_000
KEY = "bench"

Client = redis.asyncio.Redis


def payload(n: int) -> bytes:
    return json.dumps({"n": n}).encode()


async def sequential(client: Client, tasks: int) -> None:
    for n in range(tasks):
        await client.lpush(KEY, payload(n))


async def concurrent(client: Client, tasks: int) -> None:
    numbers = iter(range(tasks))

    async def one_of_many() -> None:
        for n in numbers:
            await client.lpush(KEY, payload(n))

    await asyncio.gather(*(one_of_many() for _ in range(COROUTINES)))


async def bulk(client: Client, tasks: int) -> None:
    for start in range(0, tasks, BATCH):
        async with client.pipeline(transaction=False) as pipe:
            for n in range(start, min(start + BATCH, tasks)):
                pipe.lpush(KEY, payload(n))
            await pipe.execute()


WAYS: dict[str, Callable[[Client, int], Awaitable[None]]] = {
    "sequential": sequential,
    "concurrent": concurrent,
    "bulk": bulk,
}


async def main(url: str, mode: str, tasks: str) -> None:
    async with redis.asyncio.from_url(url) as client:
        await asyncio.gather(*(client.ping() for _ in range(COROUTINES)))  # connections are open
        started = time.perf_counter()
        await WAYS[mode](client, int(tasks))
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
