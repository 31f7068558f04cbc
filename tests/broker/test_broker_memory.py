"""A Redis that is full and evicts nothing: workers must be able to drain it (B27)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry
from asynqpy.errors import BrokerFullError
from tests import redis_state as state
from tests.broker.factories import (
    LOCK,
    SERVER,
    WORKER,
    grouped_task,
    lease_on,
    lease_score,
    new_task,
    scheduled_task,
    settlement,
)
from tests.fake_clock import FakeClock
from tests.redis_process import RedisProcess, start_redis


@pytest.fixture(scope="module")
def small_server() -> Iterator[RedisProcess]:
    with start_redis("--maxmemory-policy", "noeviction") as server:
        yield server


@pytest.fixture
def redis_url(small_server: RedisProcess) -> str:
    """Of a Redis that has room until ``fill`` is called."""
    small_server.ask("CONFIG", "SET", "maxmemory", "0")
    small_server.ask("FLUSHALL")
    return small_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, protocol=2) as client:
        yield client


async def fill(redis: Redis) -> None:
    await state.ask(redis, "CONFIG", "SET", "maxmemory", "1")


REFUSED = {
    "pending": new_task(lock=LOCK),
    "scheduled": scheduled_task(at=4_000_000_000, lock=LOCK),
    "grouped": grouped_task(group="g", at=1, lock=LOCK),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_task_is_refused_with_an_error_and_without_a_trace(
    broker: Broker, redis: Redis, kind: str
) -> None:
    await fill(redis)
    (answer,) = await broker.enqueue([REFUSED[kind]])
    assert type(answer) is BrokerFullError
    assert "maxmemory" in str(answer)
    assert await state.dump(redis) == {}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_call_that_is_repeated_finds_the_task_that_came_in_before(
    broker: Broker, redis: Redis, kind: str
) -> None:
    assert await broker.enqueue([REFUSED[kind]]) == [None]
    before = await state.dump(redis)
    await fill(redis)
    assert await broker.enqueue([REFUSED[kind]]) == [None]
    assert await state.dump(redis) == before


async def test_tasks_are_handed_out_under_leases(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, *state.messages(3))
    await fill(redis)
    turn = await broker.dequeue({"default": 2})
    assert [delivery.message.id for delivery in turn.deliveries] == ["t0", "t1"]
    assert turn.errors == {}
    assert len(await state.scores(redis, "lease")) == 2
    assert await state.invariants(redis) == []


async def test_leases_are_extended(broker: Broker, clock: FakeClock, redis: Redis) -> None:
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock))
    await fill(redis)
    lease = lease_on(task, clock)
    clock.advance(10)
    assert await broker.extend_lease([lease]) == []
    assert lease.expires_at == int(clock.now()) + 30
    assert await state.scores(redis, "lease") == {"t1": lease_score(clock)}


async def test_leases_whose_answer_nobody_has_read_are_extended(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.seed_pending(redis, *state.messages(3))
    await fill(redis)
    grants = broker.grant(["default"])
    await broker.turn([], {"default": 2}, grants)
    before = await state.scores(redis, "lease")
    assert list(before) == ["t0", "t1"]
    for seconds in (10, 20):
        clock.advance(10)
        await broker.extend_grants(grants)
        after = await state.scores(redis, "lease")
        assert after == {task_id: score + seconds for task_id, score in before.items()}
    assert await state.invariants(redis) == []


@pytest.mark.parametrize(
    "outcome", [Done(), Complete(), Retry(4e9, "no"), Archive("no"), Requeue()], ids=repr
)
async def test_tasks_are_settled_and_counted(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    tasks = state.messages(3)
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    await fill(redis)
    reports = [settlement(task, outcome, clock.now()) for task in tasks]
    assert await broker.settle(reports) == [True] * 3
    assert await state.listed(redis, "active") == []
    assert await state.counter(redis, "processed") == (0 if outcome == Requeue() else 3)
    assert await state.invariants(redis) == []


async def test_due_tasks_are_forwarded_and_expired_ones_deleted(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_scheduled(redis, state.message("due"), at=1)
    await state.seed_completed(redis, state.message("over"), until=1)
    await fill(redis)
    await broker.forward(["default"])
    assert await broker.delete_expired_completed(["default"]) == 1
    assert await state.listed(redis, "pending") == ["due"]


async def test_what_cannot_be_read_is_set_aside(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, state.message("good"), state.message("bad"))
    await state.ask(redis, "HSET", state.task_key("default", "bad"), "msg", "noise")
    await fill(redis)
    turn = await broker.dequeue({"default": 5})
    assert [delivery.message.id for delivery in turn.deliveries] == ["good"]
    assert await state.invariants(redis) == []
    kept = await state.ask(redis, "HGET", "asynqpy:{default}:quarantine:bad", "msg")
    assert kept == b"noise"


async def test_a_result_is_refused_with_an_error(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock))
    await fill(redis)
    with pytest.raises(BrokerFullError, match="maxmemory"):
        await broker.write_result(lease_on(task, clock), b"42")


async def test_presence_is_renewed(broker: Broker, clock: FakeClock, redis: Redis) -> None:
    before = await state.dump(redis, "asynq:*s")
    for _ in range(2):
        await broker.write_server_state(SERVER, [WORKER], 10)
        before, earlier = await state.dump(redis, "asynq:*s"), before
        assert before.keys() == {"asynq:servers", "asynq:workers"}
        assert before != earlier
        assert len(await state.dump(redis, "asynq:servers:*")) == 1
        assert len(await state.dump(redis, "asynq:workers:*")) == 1
        await fill(redis)
        clock.advance(5)
