"""taskiq: ``kiq``. It has no way to enqueue many at once."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import app
import peer_producer
from redis.asyncio import Redis


@asynccontextmanager
async def client(url: str) -> AsyncIterator[peer_producer.Ways]:
    await app.broker.startup()
    redis = Redis(connection_pool=app.broker.connection_pool)
    yield peer_producer.Ways(send=app.noop.kiq, ping=redis.ping)
    await app.broker.shutdown()


if __name__ == "__main__":
    peer_producer.drive(client)
