"""Connections that are open at this end only: what is sent gets lost, and nobody says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import Task
from tests import redis_state as state
from tests import single
from tests.eventually import eventually
from tests.redis_proxy import RedisProxy
from tests.server.servers import serving
from tests.trouble.voice import told
from tests.trouble.work import Work, insist


@pytest.fixture
async def impatient(proxy: RedisProxy) -> AsyncIterator[Redis]:
    """A client through the proxy that waits a second for an answer, not ten."""
    once = Retry(NoBackoff(), 0)
    async with Redis.from_url(proxy.url, socket_timeout=1, retry=once) as client:
        yield client


@pytest.mark.parametrize("way", ["swallows_requests", "swallows_replies"])
@single.PROXIED
async def test_a_server_and_a_client_get_over_dead_lines(
    proxy: RedisProxy,
    impatient: Redis,
    redis: Redis,
    work: Work,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(impatient, work), Client(impatient) as client:
        await asyncio.gather(*(insist(client, f"before{n}") for n in range(5)))
        await eventually(lambda: len(work.done) == 5, within=15)
        outages = told(caplog, "is away")
        setattr(proxy, way, True)
        await eventually(lambda: told(caplog, "is away") > outages, within=15)
        with pytest.raises(BrokerUnavailableError):
            await client.enqueue(Task("email:welcome"), task_id="lost")
        setattr(proxy, way, False)  # new lines are whole; the old ones stay dead
        await insist(client, "after")
        await eventually(lambda: "after" in work.done, within=15)
        await eventually(lambda: told(caplog, "is back after") == told(caplog, "is away"))
    assert len(work.done) == len(set(work.done))
    assert await state.invariants(redis) == []


@single.PROXIED
async def test_a_crowd_of_callers_does_not_queue_up_for_a_dead_line(
    proxy: RedisProxy, impatient: Redis
) -> None:
    loop = asyncio.get_running_loop()
    async with Client(impatient) as client:
        await client.ping()
        proxy.swallows_requests = True
        with pytest.raises(BrokerUnavailableError):
            await client.ping()
        began = loop.time()
        calls = (client.ping() for _ in range(200))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {BrokerUnavailableError}
        assert loop.time() - began < 6
