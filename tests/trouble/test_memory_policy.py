from __future__ import annotations

import pytest

from tests.eventually import eventually
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import told
from tests.trouble.work import Work, enqueue

EVICTING = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")


async def test_a_server_warns_of_a_redis_that_evicts_and_works_all_the_same(
    mortal_redis: MortalRedis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    mortal_redis.start(*EVICTING)
    async with serving(mortal_redis.url, work):
        await eventually(lambda: told(caplog, "maxmemory-policy is allkeys-lru") == 1)
        await enqueue(mortal_redis.url, "a")
        await eventually(lambda: work.done == ["a"])
    assert told(caplog, "Set maxmemory-policy to noeviction") == 1


async def test_the_warning_comes_late_where_redis_does(
    mortal_redis: MortalRedis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(mortal_redis.url, work):
        assert told(caplog, "is away") == 1
        mortal_redis.start(*EVICTING)
        await eventually(lambda: told(caplog, "maxmemory-policy is allkeys-lru"), within=15)
