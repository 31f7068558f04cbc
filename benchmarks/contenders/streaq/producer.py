"""streaQ: awaits the task's ``enqueue``, or ``enqueue_many``, which sends a pipeline."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_producer
from streaq import Worker


@asynccontextmanager
async def client(url: str) -> AsyncIterator[peer_producer.Ways]:
    worker = Worker(redis_url=url)

    @worker.task(name="noop")
    async def noop(n: int) -> None:
        """Runs in the worker alone."""

    async def send(n: int) -> None:
        await noop.enqueue(n)

    async def ping() -> None:
        await worker.redis.ping()

    async def bulk(numbers: Sequence[int]) -> None:
        await worker.enqueue_many([noop.enqueue(n) for n in numbers])

    async with worker:
        yield peer_producer.Ways(send=send, ping=ping, bulk=bulk)


if __name__ == "__main__":
    peer_producer.drive(client)
