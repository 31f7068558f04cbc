from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import Task
from tests.eventually import eventually
from tests.redis_state import ask
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import complaints, told
from tests.trouble.work import Work, enqueue

#: Keys, and µs to load one: more than a second, in which Redis answers.
_KEYS, _DELAY = 4000, 400
_SLOW = ("--key-load-delay", str(_DELAY), "--loading-process-events-interval-bytes", "1024")


async def stop_with_much_data(redis: MortalRedis, eye: Redis) -> None:
    version = (await eye.info("server"))["redis_version"]
    if int(version.split(".")[0]) < 7:
        pytest.skip(f"Redis {version} cannot be told to answer often while it loads")
    async with eye.pipeline(transaction=False) as pipeline:
        for n in range(_KEYS):
            _ = pipeline.set(f"ballast:{n}", "x" * 64)
        await pipeline.execute()
    await ask(eye, "SAVE")
    redis.stop()


async def test_a_redis_that_loads_its_data_is_waited_for(
    mortal_redis: MortalRedis, eye: Redis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    mortal_redis.start()
    async with serving(mortal_redis.url, work):
        await enqueue(mortal_redis.url, "before")
        await eventually(lambda: work.done == ["before"])
        await stop_with_much_data(mortal_redis, eye)
        mortal_redis.start(*_SLOW)
        async with Client(mortal_redis.url) as client:
            with pytest.raises(BrokerUnavailableError, match="loading"):
                await client.enqueue(Task("email:welcome"), task_id="early")
            await eventually(lambda: told(caplog, "is back after") == 1, within=15)
            await client.enqueue(Task("email:welcome"), task_id="after")
        await eventually(lambda: work.done == ["before", "after"])
    (complaint,) = complaints(caplog)
    assert "is away" in complaint


async def test_the_log_says_that_it_loads(
    mortal_redis: MortalRedis, eye: Redis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    mortal_redis.start()
    await stop_with_much_data(mortal_redis, eye)
    mortal_redis.start(*_SLOW)
    async with serving(mortal_redis.url, work):
        await eventually(lambda: told(caplog, " is loading the dataset in memory"))
        await eventually(lambda: told(caplog, "is back after"), within=15)
        await enqueue(mortal_redis.url, "a")
        await eventually(lambda: work.done == ["a"])
