"""SAQ: ``Queue.enqueue``, of which the queue lets 20 run at once by default. It has no way to enqueue many at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_producer
from saq.queue.redis import RedisQueue


@asynccontextmanager
async def client(url: str) -> AsyncIterator[peer_producer.Ways]:
    queue = RedisQueue.from_url(url)
    await queue.connect()
    yield peer_producer.Ways(send=lambda n: queue.enqueue("noop", n=n), ping=queue.redis.ping)
    await queue.disconnect()


if __name__ == "__main__":
    peer_producer.drive(client)
