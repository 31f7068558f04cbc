"""B22-B24: tasks of a group that asynq forgets, aggregates twice, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, Task
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    message,
    scores,
    seed_aggregating,
    seed_pending,
    seed_retry,
    states,
    task_hash,
)
from tests.server.parts import EVERY_SERVICE, a_workshop, work_off


async def test_b22_a_task_that_returns_to_its_group_puts_the_group_back_on_the_list(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq moves the task and leaves the group unlisted: no aggregator sees it until somebody else joins."""
    await seed_retry(redis, message(group_key="g"), at=1)
    await ask(redis, "HSET", key("default", "t:t1"), "group", "g")
    await broker.forward(["default"])
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == {b"g"}
    assert list(await scores(redis, "g:g")) == ["t1"]
    assert await states(redis, "t1") == ["aggregating"]
    assert await invariants(redis) == []


async def test_b23_no_service_of_a_server_touches_groups_or_their_aggregation_sets(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq enqueues what it aggregated and deletes the set by two calls: a crash between makes it aggregate twice."""
    set_key = key("default", "g:g:0b0e4c7e-8a52-4f0c-9c1c-3f2a5d1c9b10")
    await seed_aggregating(redis, message("waiting", group_key="g"), at=clock.now() - 9_999)
    await seed_aggregating(redis, message("taken", group_key="h"), at=clock.now() - 9_999)
    await ask(redis, "RENAME", key("default", "g:h"), set_key)
    await ask(redis, "SREM", key("default", "groups"), "h")
    await ask(redis, "ZADD", key("default", "aggregation_sets"), clock.now() + 60, set_key)
    before = await dump(redis, key("default", "*"))
    for name in ("processor", "forwarder", "janitor", "recoverer"):
        await EVERY_SERVICE[name](broker).tick()
    assert await dump(redis, key("default", "*")) == before


async def test_b24_a_delayed_task_of_a_group_joins_it_when_it_is_due(
    client: Client, broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq forgets the group of a delayed task, which then runs by itself."""
    await client.enqueue(Task("email"), task_id="t1", group="g", process_in=60)
    assert await states(redis, "t1") == ["scheduled"]
    clock.advance(62)
    await broker.forward(["default"])
    assert await states(redis, "t1") == ["aggregating"]
    assert list(await scores(redis, "g:g")) == ["t1"]
    assert (await task_hash(redis, "t1"))["group"] == b"g"
    assert await invariants(redis) == []


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_b24_an_error_handler_that_fails_takes_nobody_with_it(
    broker: FlakyBroker, redis: Redis, error: type[BaseException]
) -> None:
    """A panic in asynq's ErrorHandler or aggregator is the end of the process."""

    async def fails(task: ActiveTask) -> None:
        raise ValueError("no")

    def panics(task: ActiveTask, cause: BaseException) -> None:
        raise error

    shop = a_workshop(broker, fails, error_handler=panics)
    await seed_pending(redis, message("t1"), message("t2"))
    await work_off(shop)
    assert await states(redis, "t1", "t2") == ["retry", "retry"]
    assert await invariants(redis) == []
