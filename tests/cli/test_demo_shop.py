from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.cli import demo_shop
from asynqpy.cli.demo_record import Kind, Record
from asynqpy.cli.demo_shop import QUEUES, run_shop
from asynqpy.errors import BrokerUnavailableError
from asynqpy.task import TaskState
from tests.redis_process import free_port
from tests.redis_state import invariants, listed, scores

STORY = {Kind.SCHEDULED, Kind.FAILED, Kind.RETRIED, Kind.COMPLETED, Kind.ARCHIVED}


async def test_record_of_the_shop_is_what_redis_holds(redis_url: str, redis: Redis) -> None:
    record = Record()
    await run_shop(redis_url, record, pace=0.05)
    assert record.unfinished == 0
    assert all(record.count(kind) for kind in STORY)
    for queue in QUEUES:
        for state in (TaskState.COMPLETED, TaskState.ARCHIVED):
            held = len(await scores(redis, state, queue))
            assert held == record.in_state(queue, state)
            assert held == record.count(Kind[state.name], queue)
        assert not await listed(redis, "pending", queue)
        assert not await listed(redis, "active", queue)
        assert not await scores(redis, "retry", queue)
        assert not await invariants(redis, queue)


async def test_shop_that_does_not_end_in_time_says_what_is_left(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_shop, "_PATIENCE", 0.0)
    # The first order is the last, and its reminder is due in a minute.
    monkeypatch.setattr(demo_shop, "_ORDERS", 1)
    monkeypatch.setattr(demo_shop, "_ORDER_INTERVAL", 0.0)
    record = Record()
    await run_shop(redis_url, record, pace=15.0)
    assert record.unfinished > 0


async def test_shop_without_redis_raises() -> None:
    with pytest.raises(BrokerUnavailableError):
        await run_shop(f"redis://127.0.0.1:{free_port()}", Record())
