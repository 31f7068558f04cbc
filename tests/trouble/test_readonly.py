from __future__ import annotations

import re

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import Task
from tests import redis_state as state
from tests.eventually import eventually
from tests.redis_process import HOST, free_port, start_redis
from tests.redis_proxy import RedisProxy
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import complaints, told
from tests.trouble.work import Work, enqueue, is_refused


async def test_a_master_that_became_a_replica_is_away_until_it_is_master_again(
    mortal_redis: MortalRedis, eye: Redis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    mortal_redis.start()
    async with serving(mortal_redis.url, work), Client(mortal_redis.url) as client:
        await client.enqueue(Task("email:welcome"), task_id="before")
        await eventually(lambda: work.done == ["before"])
        mortal_redis.process.ask("REPLICAOF", HOST, str(free_port()))
        with pytest.raises(BrokerUnavailableError, match="read only replica"):
            await client.enqueue(Task("email:welcome"), task_id="early")
        (complaint,) = complaints(caplog)
        assert re.search("is away: .*You can't write against a read only replica", complaint)
        mortal_redis.process.ask("REPLICAOF", "NO", "ONE")
        await enqueue(mortal_redis.url, "after")
        await eventually(lambda: work.done == ["before", "after"])
    assert told(caplog, "is back after") == 1
    assert len(complaints(caplog)) == 1
    assert await state.invariants(eye) == []


async def test_after_a_fail_over_the_next_attempt_connects_anew(work: Work) -> None:
    """The address moves to another server, while connections to the old one live on."""
    with start_redis() as old, start_redis() as new:
        async with RedisProxy(old.port) as address, serving(address.url, work):
            async with Client(address.url) as client:
                await client.enqueue(Task("email:welcome"), task_id="before")
                await eventually(lambda: work.done == ["before"])
                address.redis_port = new.port
                old.ask("REPLICAOF", HOST, str(new.port))
                assert await is_refused(client)
                await client.enqueue(Task("email:welcome"), task_id="after")
            await eventually(lambda: work.done == ["before", "after"])
        assert new.ask("EXISTS", "asynq:queues") == 1
