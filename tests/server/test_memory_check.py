from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest

from asynqpy.broker.broker import Broker
from asynqpy.errors import BrokerUnavailableError
from asynqpy.server.memory_check import MemoryCheck
from tests import single
from tests.flaky_broker import FlakyBroker
from tests.redis_process import RedisProcess


@pytest.fixture
def evicting(redis_server: RedisProcess) -> Iterator[RedisProcess]:
    redis_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    yield redis_server
    redis_server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_redis_that_evicts_nothing_is_not_complained_about(
    broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    assert await MemoryCheck(broker=broker).tick() == math.inf
    assert caplog.text == ""


@pytest.mark.usefixtures("evicting")
@single.ITS_SETTINGS
async def test_redis_that_evicts_is_warned_of_once(
    broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    assert await MemoryCheck(broker=broker).tick() == math.inf
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "allkeys-lru" in record.getMessage()
    assert "noeviction" in record.getMessage()


async def test_redis_that_is_away_is_asked_again(
    broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.down()
    with pytest.raises(BrokerUnavailableError):
        await MemoryCheck(broker=broker).tick()
    assert caplog.text == ""


@single.ITS_SETTINGS
async def test_redis_that_may_not_tell_is_left_alone(
    redis_server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.ask("ACL", "SETUSER", "shy", "on", ">s3cret", "~*", "&*", "+@all", "-info")
    broker = Broker(f"redis://shy:s3cret@{redis_server.address}/0")
    try:
        assert await MemoryCheck(broker=broker).tick() == math.inf
    finally:
        await broker.close()
        redis_server.ask("ACL", "DELUSER", "shy")
    assert caplog.text == ""
