from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.clock import Clock
from tests import redis_state as state
from tests.broker.factories import LOCK, new_task
from tests.fake_clock import FakeClock

LATER = 4_000_000_000

each_source = pytest.mark.parametrize("source", ["scheduled", "retry"])


async def seed(redis: Redis, source: str, *ids: str, at: float, **fields: str) -> None:
    tasks = [state.message(task_id, **fields) for task_id in ids]
    put = {"scheduled": state.seed_scheduled, "retry": state.seed_retry}[source]
    await put(redis, *tasks, at=at)


# forward


@each_source
async def test_due_tasks_become_pending_oldest_first_and_the_rest_waits(
    broker: Broker, clock: FakeClock, redis: Redis, source: str
) -> None:
    now = int(clock.now())
    await seed(redis, source, "due now", at=now)
    await seed(redis, source, "long due", at=now - 5)
    await seed(redis, source, "not yet", at=now + 1)
    assert await broker.forward(["default"]) == now + 1
    assert await state.listed(redis, "pending") == ["long due", "due now"]
    assert await state.scores(redis, source) == {"not yet": now + 1}
    assert await state.task_hash(redis, "due now") == {
        "msg": state.message("due now").SerializeToString(),
        "state": b"pending",
        "pending_since": str(clock.now_ns()).encode(),
    }
    assert await state.invariants(redis) == []


@each_source
async def test_a_task_is_not_due_before_redis_has_reached_its_second_for_certain(
    redis_url: str, redis: Redis, source: str
) -> None:
    """After a slow round trip the clock may be ahead of Redis by half of it."""
    clock = Clock()
    broker = Broker(redis_url, clock)
    clock.anchor(1_700_000_000.0, round_trip=60.0)
    assert clock.now() >= 1_700_000_030
    await seed(redis, source, "due", at=1_700_000_000)
    await seed(redis, source, "not yet", at=1_700_000_030)
    assert await broker.forward(["default"]) == 1_700_000_030
    assert await state.listed(redis, "pending") == ["due"]
    assert await state.scores(redis, source) == {"not yet": 1_700_000_030}
    await broker.close()


async def test_a_forwarded_task_waits_behind_those_that_were_pending(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_pending(redis, state.message("first"))
    await seed(redis, "scheduled", "second", at=1)
    await broker.forward(["default"])
    assert await state.listed(redis, "pending") == ["first", "second"]


async def test_the_next_due_time_is_the_earliest_of_all_queues(
    broker: Broker, redis: Redis
) -> None:
    await seed(redis, "scheduled", "a", at=LATER + 5)
    await seed(redis, "retry", "b", at=LATER + 2, queue="low")
    assert await broker.forward(["default", "low", "empty"]) == LATER + 2
    assert await broker.forward(["empty"]) is None
    assert await broker.forward([]) is None


@each_source
async def test_forwarding_again_changes_nothing(
    broker: Broker, other_broker: Broker, redis: Redis, source: str
) -> None:
    await seed(redis, source, "a", "b", at=1)
    await broker.forward(["default"])
    before = await state.dump(redis)
    assert await other_broker.forward(["default"]) is None
    assert await state.dump(redis) == before


async def test_more_due_tasks_than_a_script_takes_are_all_forwarded(
    broker: Broker, redis: Redis
) -> None:
    asyncio.get_running_loop().set_debug(False)
    ids = {f"t{n:04}": 1_000.0 + n for n in range(1_201)}
    await state.seed_many(redis, "scheduled", ids)
    await state.seed_many(redis, "retry", {"r": 1.0})
    await seed(redis, "scheduled", "later", at=LATER)
    assert await broker.forward(["default"]) == LATER
    pending = await state.listed(redis, "pending")
    assert [task_id for task_id in pending if task_id != "r"] == list(ids)
    assert await state.invariants(redis) == []


@each_source
async def test_a_grouped_task_returns_to_its_group_where_the_aggregator_finds_it(
    broker: Broker, clock: FakeClock, redis: Redis, source: str
) -> None:
    """Go does not list the group again, and the task is never seen any more (B22)."""
    await seed(redis, source, "a", at=1, group_key="g1")
    await state.ask(redis, "HSET", state.task_key("default", "a"), "group", "g1")
    await broker.forward(["default"])
    assert await state.scores(redis, "g:g1") == {"a": int(clock.now())}
    assert await state.ask(redis, "SMEMBERS", state.key("default", "groups")) == {b"g1"}
    assert await state.states(redis, "a") == ["aggregating"]
    assert await state.invariants(redis) == []


async def test_a_task_whose_group_cannot_be_joined_runs_alone(broker: Broker, redis: Redis) -> None:
    await seed(redis, "retry", "a", at=1, group_key="g1")
    await state.ask(redis, "HSET", state.task_key("default", "a"), "group", "g1")
    await state.ask(redis, "SET", state.key("default", "g:g1"), "noise")
    await broker.forward(["default"])
    assert await state.listed(redis, "pending") == ["a"]


@each_source
@pytest.mark.parametrize("damage", ["no hash", "wrong type", "no message"])
async def test_an_entry_without_a_message_is_set_aside_and_leaves_no_ghost(
    broker: Broker, redis: Redis, source: str, damage: str
) -> None:
    """Go makes a bare hash of it (B3)."""
    await seed(redis, source, "a", "bad", "c", at=1)
    key = state.task_key("default", "bad")
    await state.ask(redis, "DEL", key)
    if damage == "wrong type":
        await state.ask(redis, "SET", key, "noise")
    if damage == "no message":
        await state.ask(redis, "HSET", key, "state", source)
    await seed(redis, source, "later", at=LATER)
    assert await broker.forward(["default"]) == LATER
    assert await state.listed(redis, "pending") == ["a", "c"]
    assert await state.invariants(redis) == []
    assert await state.ask(redis, "ZRANGE", "asynqpy:{default}:quarantine", 0, -1) == [b"bad"]
    kept = await state.ask(redis, "EXISTS", "asynqpy:{default}:quarantine:bad")
    assert kept == (damage != "no hash")


async def test_hundreds_of_entries_without_a_message_do_not_hold_the_others_up(
    broker: Broker, redis: Redis
) -> None:
    entries = [word for n in range(700) for word in (n, f"ghost{n}")]
    await state.ask(redis, "ZADD", state.key("default", "scheduled"), *entries)
    await seed(redis, "scheduled", "good", at=800)
    assert await broker.forward(["default"]) is None
    assert await state.listed(redis, "pending") == ["good"]
    assert await state.scores(redis, "scheduled") == {}


@pytest.mark.parametrize("container", ["scheduled", "pending", "groups"])
async def test_a_container_of_the_wrong_type_is_set_aside_and_spares_other_queues(
    broker: Broker, redis: Redis, container: str
) -> None:
    await seed(redis, "retry", "a", at=1)
    await seed(redis, "scheduled", "b", at=1, queue="low")
    await state.ask(redis, "SET", state.key("default", container), "noise")
    await broker.forward(["default", "low"])
    assert await state.listed(redis, "pending", "low") == ["b"]
    aside = f"asynqpy:{{default}}:quarantine:key:{container}"
    assert await state.dump(redis, "asynqpy:*") == {aside: b"noise"}
    await broker.forward(["default"])
    assert await state.listed(redis, "pending") == ["a"]


# delete_expired_completed


async def test_completed_tasks_go_when_their_retention_ends(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    now = int(clock.now())
    await state.seed_completed(redis, state.message("over"), until=now)
    await state.seed_completed(redis, state.message("not yet"), until=now + 1)
    assert await broker.delete_expired_completed(["default"]) == 1
    assert await state.states(redis, "over", "not yet") == ["", "completed"]
    assert await state.scores(redis, "completed") == {"not yet": now + 1}
    assert await broker.delete_expired_completed(["default"]) == 0


async def test_all_expired_tasks_of_all_queues_go_a_few_at_a_time(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_many(redis, "completed", {f"t{n}": 1.0 for n in range(25)})
    await state.seed_many(redis, "completed", {f"t{n}": 1.0 for n in range(10)}, "low")
    assert await broker.delete_expired_completed(["default", "low", "empty"], limit=10) == 35
    assert await state.dump(redis) == {"asynq:queues": {b"default", b"low"}}


async def test_a_completed_set_of_the_wrong_type_is_set_aside_and_spares_other_queues(
    broker: Broker, redis: Redis
) -> None:
    await state.ask(redis, "SET", state.key("default", "completed"), "noise")
    await state.seed_completed(redis, state.message("t1", queue="low"), until=1)
    assert await broker.delete_expired_completed(["default", "low"]) == 1
    aside = {"asynqpy:{default}:quarantine:key:completed": b"noise"}
    assert await state.dump(redis, "asynqpy:*") == aside


# What was set aside


async def test_a_second_key_of_the_wrong_type_does_not_replace_the_first(
    broker: Broker, redis: Redis
) -> None:
    for value in ("one", "two"):
        await state.ask(redis, "SET", state.key("default", "completed"), value)
        await broker.delete_expired_completed(["default"])
    prefix = "asynqpy:{default}:quarantine:key:completed"
    assert await state.dump(redis, "asynqpy:*") == {prefix: b"one", f"{prefix}:2": b"two"}


async def test_a_task_that_was_set_aside_frees_its_id_and_its_lock(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_scheduled(redis, state.message("bad", unique_key=LOCK), at=1)
    await state.ask(redis, "HDEL", state.task_key("default", "bad"), "msg")
    await broker.forward(["default"])
    task = new_task("bad", lock=LOCK, token="again")
    assert await broker.enqueue([task]) == [None]
