from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import Task
from tests import single
from tests.eventually import eventually
from tests.redis_proxy import RedisProxy
from tests.trouble.voice import complaints, told


@pytest.mark.parametrize("kind", [BlockingConnectionPool, ConnectionPool])
@single.CALLERS_CLIENT
async def test_calls_wait_for_a_connection_rather_than_fail(
    redis_url: str, kind: type[ConnectionPool], caplog: pytest.LogCaptureFixture
) -> None:
    redis = Redis.from_pool(kind.from_url(redis_url, max_connections=2))
    async with redis, Client(redis) as client:
        await asyncio.gather(*(client.enqueue(Task("email:welcome")) for _ in range(100)))
    assert complaints(caplog) == []


@single.PROXIED
async def test_a_call_that_gets_no_connection_says_so_and_is_no_outage(
    proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asynqpy.broker.scripts.POOL_TIMEOUT", 0.1)
    redis = Redis.from_pool(ConnectionPool.from_url(proxy.url, max_connections=1))
    async with redis, Client(redis) as client:
        await client.enqueue(Task("email:welcome"))
        proxy.delay = 0.3
        asked = len(proxy.requests)
        holding = asyncio.create_task(client.enqueue(Task("email:welcome")))
        await eventually(lambda: len(proxy.requests) > asked)
        for _ in range(2):
            with pytest.raises(BrokerUnavailableError, match="all connections are busy"):
                await client.enqueue(Task("email:welcome"))
        await holding
        proxy.delay = 0
        await client.enqueue(Task("email:welcome"))
    assert told(caplog, "all connections are busy") == 1
    assert told(caplog, "is away") == 0


@single.CALLERS_CLIENT
async def test_a_pool_that_others_have_exhausted_is_told_apart_from_an_outage(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis = Redis.from_pool(ConnectionPool.from_url(redis_url, max_connections=1))
    async with redis, Client(redis) as client:
        await client.ping()
        others = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        with pytest.raises(BrokerUnavailableError, match="all connections are busy"):
            await client.enqueue(Task("email:welcome"))
        await redis.connection_pool.release(others)
        await client.enqueue(Task("email:welcome"))
    assert told(caplog, "is away") == 0
