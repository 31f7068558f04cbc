"""arq: ``enqueue_job`` on its pool. It has no way to enqueue many at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_producer
from arq import create_pool
from arq.connections import RedisSettings


@asynccontextmanager
async def client(url: str) -> AsyncIterator[peer_producer.Ways]:
    redis = await create_pool(RedisSettings.from_dsn(url))
    yield peer_producer.Ways(send=lambda n: redis.enqueue_job("noop", n=n), ping=redis.ping)
    await redis.aclose()


if __name__ == "__main__":
    peer_producer.drive(client)
