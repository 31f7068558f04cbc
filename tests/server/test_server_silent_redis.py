"""Shutdowns while Redis takes connections and commands, but answers none."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from asynqpy.client import Client
from asynqpy.errors import ServerClosedError
from asynqpy.server.server import Server, ServerState
from asynqpy.task import Task
from tests.eventually import eventually
from tests.redis_process import RedisProcess, start_redis
from tests.server.gate import Gate
from tests.server.parts import returns
from tests.server.servers import a_server, left_behind, serving


class SilentRedis:
    """A Redis that answers until it is silenced."""

    def __init__(self, process: RedisProcess) -> None:
        self._process = process
        self.url = process.url

    def silence(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)


@pytest.fixture
def silent_redis() -> Iterator[SilentRedis]:
    with start_redis() as process:
        silent = SilentRedis(process)
        try:
            yield silent
        finally:
            os.kill(process.pid, signal.SIGCONT)


@asynccontextmanager
async def working_on_one_task(
    silent_redis: SilentRedis, shutdown_timeout: float
) -> AsyncIterator[Server]:
    """A server in the midst of a task, whose Redis says nothing any more."""
    gate = Gate()
    async with Client(silent_redis.url) as client:
        await client.enqueue(Task("email:welcome"))
    async with serving(silent_redis.url, gate, shutdown_timeout=shutdown_timeout) as server:
        await eventually(lambda: gate.running)
        silent_redis.silence()
        yield server


async def test_shutdown_with_a_silent_redis_ends_in_time(silent_redis: SilentRedis) -> None:
    async with working_on_one_task(silent_redis, shutdown_timeout=0.2) as server:
        async with asyncio.timeout(0.2 + 5):
            await server.shutdown()
    assert left_behind() == []


async def test_abort_makes_a_shutdown_with_a_silent_redis_end_sooner(
    silent_redis: SilentRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.server._PATIENCE", 0.05)
    async with working_on_one_task(silent_redis, shutdown_timeout=3600) as server:
        closing = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.state is ServerState.CLOSED)
        server.abort()
        async with asyncio.timeout(4):
            await closing
    assert left_behind() == []


async def test_shutdown_of_a_start_that_waits_for_a_silent_redis_is_quick(
    silent_redis: SilentRedis,
) -> None:
    silent_redis.silence()
    server = a_server(silent_redis.url)
    starting = asyncio.create_task(server.start(returns))
    await eventually(lambda: server.state is ServerState.ACTIVE)
    assert not starting.done()
    async with asyncio.timeout(1):
        await server.shutdown()
        with pytest.raises(ServerClosedError):
            await starting
    assert left_behind() == []


async def test_signal_during_a_start_that_waits_for_a_silent_redis_is_obeyed_quickly(
    silent_redis: SilentRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.server._PATIENCE", 0.05)
    silent_redis.silence()
    server = a_server(silent_redis.url)
    running = asyncio.create_task(server.run(returns))
    await eventually(lambda: server.state is ServerState.ACTIVE)
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(4):
        await running
    assert server.state is ServerState.CLOSED
    assert left_behind() == []
