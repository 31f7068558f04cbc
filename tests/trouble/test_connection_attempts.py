"""How often a whole process knocks at the door of a Redis that is away."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import Task
from tests import single
from tests.eventually import eventually
from tests.redis_proxy import RedisProxy
from tests.server.servers import serving
from tests.trouble.voice import told
from tests.trouble.work import Work


class Crowd:
    """Coroutines that enqueue all the time. Ended by a flag: redis-py loses a cancellation now and then."""

    def __init__(self, client: Client, size: int) -> None:
        self.waits: list[float] = []
        self._client = client
        self._size = size
        self._is_over = False

    async def _enqueue(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_over:
            began = loop.time()
            try:
                await self._client.enqueue(Task("email:welcome"))
            except BrokerUnavailableError:
                self.waits.append(loop.time() - began)
            await asyncio.sleep(0.2)

    async def __aenter__(self) -> Self:
        self._jobs = [asyncio.create_task(self._enqueue()) for _ in range(self._size)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._jobs)


@pytest.mark.parametrize("was_there", [False, True])
@single.PROXIED
async def test_a_server_and_a_busy_client_together_try_twice_a_second_at_most(
    proxy: RedisProxy, work: Work, was_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_debug(False)
    seconds = 3
    proxy.refuses = not was_there
    async with (
        serving(proxy.url, work),
        Client(proxy.url) as client,
        Crowd(client, 30) as crowd,
    ):
        if was_there:
            await eventually(lambda: len(work.done) > 50, within=20)
            proxy.refuses = True
            proxy.cut()
            # The calls under way find out for themselves, all at once.
            await eventually(lambda: told(caplog, "is away"))
            proxy.connections = 0
        await asyncio.sleep(seconds)
        assert seconds <= proxy.connections <= 2 * seconds + 1
        assert told(caplog, "is away") == 1
        assert max(crowd.waits) < 2.5
        proxy.refuses = False
        done = len(work.done)
        await eventually(lambda: len(work.done) > done + 10, within=20)
