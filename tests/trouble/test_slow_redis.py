from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.task import ActiveTask
from tests import redis_state as state
from tests import single
from tests.eventually import eventually
from tests.redis_proxy import RedisProxy
from tests.server.servers import serving
from tests.trouble.voice import complaints
from tests.trouble.work import insist


@single.PROXIED
async def test_a_redis_that_is_far_away_is_no_trouble(
    proxy: RedisProxy, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.delay = 0.2
    runs: list[str] = []

    async def handler(task: ActiveTask) -> None:
        runs.append(task.id)
        await asyncio.sleep(0.05)

    names = [f"t{n}" for n in range(20)]
    async with serving(proxy.url, handler, concurrency=20), Client(proxy.url) as client:
        await asyncio.gather(*(insist(client, name) for name in names))
        await eventually(lambda: sorted(runs) == sorted(names), within=15)
    assert complaints(caplog) == []
    assert await state.counter(redis, "processed") == 20
    assert await state.invariants(redis) == []


@single.PROXIED
async def test_the_clock_is_right_all_the_same(proxy: RedisProxy, redis_url: str) -> None:
    proxy.delay = 0.2
    async with Client(proxy.url) as far, Client(redis_url) as near:
        await insist(far, "a")
        await insist(near, "b")
        clocks = [client._broker.clock for client in (far, near)]
        assert abs(clocks[0].now() - clocks[1].now()) < 0.15
