from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests.fake_clock import FakeClock
from tests.redis_process import RedisProcess, start_redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    with start_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisProcess) -> str:
    """The URL of a Redis that is empty, of scripts too."""
    redis_server.ask("FLUSHALL")
    redis_server.ask("SCRIPT FLUSH")
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the same Redis that shows what is there: bytes, in RESP2."""
    async with Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
