from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry, SilentLease
from asynqpy.errors import BrokerError
from tests import redis_state as state
from tests.broker.factories import LOCK, STAMP, lease_score, settlement
from tests.fake_clock import FakeClock

RETRY_AT = 4_000_000_000.9
OUTCOMES: dict[str, Outcome] = {
    "done": Done(),
    "complete": Complete(),
    "retry": Retry(RETRY_AT, "no luck"),
    "retry uncounted": Retry(RETRY_AT, "no luck", counted=False),
    "archive": Archive("no luck"),
    "requeue": Requeue(),
}
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES.keys())


async def seed(redis: Redis, clock: FakeClock, *tasks: pb.TaskMessage, stamp: int = STAMP) -> None:
    await state.seed_active(redis, *tasks, lease=lease_score(clock, stamp))


async def settle(
    broker: Broker, clock: FakeClock, task: pb.TaskMessage, outcome: Outcome, **fence: str
) -> bool | BrokerError:
    (answer,) = await broker.settle([settlement(task, outcome, clock.now(), **fence)])
    return answer


async def silent_leases(broker: Broker, clock: FakeClock) -> list[SilentLease]:
    """All leases there are."""
    return await broker.silent_leases(["default"], clock.now() + 60, clock.now() + 60)


def today(clock: FakeClock, name: str) -> str:
    return f"asynq:{{default}}:{name}:{clock.today()}"


def processed(clock: FakeClock, count: int = 1) -> state.Dump:
    value = str(count).encode()
    return {"asynq:{default}:processed": value, today(clock, "processed"): value}


def failed(clock: FakeClock, count: int = 1) -> state.Dump:
    value = str(count).encode()
    return {"asynq:{default}:failed": value, today(clock, "failed"): value}


def stored(task: pb.TaskMessage, state_name: str, **fields: Any) -> dict[bytes, bytes]:
    """The hash of a task whose message has changed in these fields."""
    changed = pb.TaskMessage()
    changed.MergeFrom(task)
    changed.MergeFrom(pb.TaskMessage(**fields))
    return {b"msg": changed.SerializeToString(), b"state": state_name.encode()}


# What each outcome leaves.


async def test_done_leaves_nothing_but_the_count(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    assert await settle(broker, clock, task, Done()) is True
    assert await state.dump(redis) == {"asynq:queues": {b"default"}} | processed(clock)


async def test_complete_keeps_the_task_until_its_retention_ends(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task, now = state.message(unique_key=LOCK, retention=3600), int(clock.now())
    await seed(redis, clock, task)
    await state.ask(redis, "HSET", state.task_key("default", "t1"), "result", b"42")
    assert await settle(broker, clock, task, Complete()) is True
    kept = stored(task, "completed", completed_at=now)
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:completed": {b"t1": now + 3600},
        "asynq:{default}:t:t1": kept | {b"result": b"42", b"unique_key": LOCK.encode()},
    } | processed(clock)


async def test_retry_keeps_the_error_the_lock_and_the_time_of_the_next_attempt(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task, now = state.message(unique_key=LOCK, retried=2), int(clock.now())
    await seed(redis, clock, task)
    assert await settle(broker, clock, task, OUTCOMES["retry"]) is True
    kept = stored(task, "retry", error_msg="no luck", last_failed_at=now, retried=3)
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:retry": {b"t1": 4_000_000_000},
        "asynq:{default}:t:t1": kept | {b"unique_key": LOCK.encode()},
        LOCK: b"t1",
    } | processed(clock) | failed(clock)


async def test_an_uncounted_retry_uses_up_nothing_and_counts_nothing(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task, now = state.message(retried=2), int(clock.now())
    await seed(redis, clock, task)
    assert await settle(broker, clock, task, OUTCOMES["retry uncounted"]) is True
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:retry": {b"t1": 4_000_000_000},
        "asynq:{default}:t:t1": stored(task, "retry", error_msg="no luck", last_failed_at=now),
    }


async def test_archive_keeps_the_error_and_the_lock_but_no_count_of_a_retry(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task, now = state.message(unique_key=LOCK, retried=2), int(clock.now())
    await seed(redis, clock, task)
    assert await settle(broker, clock, task, Archive("no luck")) is True
    kept = stored(task, "archived", error_msg="no luck", last_failed_at=now)
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:archived": {b"t1": now},
        "asynq:{default}:t:t1": kept | {b"unique_key": LOCK.encode()},
        LOCK: b"t1",
    } | processed(clock) | failed(clock)


async def test_requeue_makes_the_task_the_next_to_run_and_says_since_when(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """Go forgets ``pending_since``, and the latency of the queue reads 0 (B26)."""
    task = state.message("t1", retried=2)
    await state.seed_pending(redis, state.message("waiting"))
    await seed(redis, clock, task)
    assert await settle(broker, clock, task, Requeue()) is True
    assert await state.listed(redis, "pending") == ["t1", "waiting"]
    since = {b"pending_since": str(clock.now_ns()).encode()}
    assert (await state.dump(redis, "*t:t1")).popitem()[1] == stored(task, "pending") | since
    assert await state.dump(redis, "*processed*") == {}
    assert await state.invariants(redis) == []


async def test_requeued_tasks_run_in_the_order_in_which_they_were_taken(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    tasks = state.messages(3)
    await state.seed_pending(redis, state.message("waiting"))
    await seed(redis, clock, *tasks)
    answers = await broker.settle([settlement(task, Requeue(), clock.now()) for task in tasks])
    assert answers == [True] * 3
    assert await state.listed(redis, "pending") == ["t0", "t1", "t2", "waiting"]


# What holds for all of them.


@each_outcome
async def test_a_repeated_call_answers_the_same_and_changes_nothing(
    broker: Broker, other_broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    headers = {f"k{n}": "v" for n in range(9)}
    task = state.message(retention=3600, unique_key=LOCK, headers=headers)
    await seed(redis, clock, task)
    report = settlement(task, outcome, clock.now())
    assert await broker.settle([report]) == [True]
    before = await state.dump(redis)
    clock.advance(2)
    assert await other_broker.settle([report]) == [True]
    assert await state.dump(redis) == before


@each_outcome
@pytest.mark.parametrize("holder", [STAMP + 1, 0], ids=["of ours", "of Go's"])
async def test_a_stale_stamp_changes_nothing_for_another_holder(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome, holder: int
) -> None:
    """In Go whoever knows the id may settle it, also a worker that lost it long ago (B6)."""
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task, stamp=holder)
    before = await state.dump(redis)
    assert await settle(broker, clock, task, outcome) is False
    assert await state.dump(redis) == before


@each_outcome
async def test_the_exact_score_settles_for_a_dead_holder(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    for task, stamp in ((state.message("of Go"), 0), (state.message("of ours"), STAMP)):
        await seed(redis, clock, task, stamp=stamp)
    for lease in await silent_leases(broker, clock):
        task = state.message(lease.id.decode())
        assert await settle(broker, clock, task, outcome, fence=lease.score) is True
    assert await state.listed(redis, "active") == []
    assert await state.invariants(redis) == []


@each_outcome
@pytest.mark.parametrize("stamp", [STAMP, 0], ids=["of ours", "of Go's"])
async def test_an_exact_score_is_worth_nothing_once_the_lease_was_extended(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome, stamp: int
) -> None:
    """Go's recoverer does not look again, and takes the task from a healthy worker (B5)."""
    task = state.message()
    await seed(redis, clock, task, stamp=stamp)
    (lease,) = await silent_leases(broker, clock)
    clock.advance(5)
    await state.ask(redis, "ZADD", state.key("default", "lease"), lease_score(clock, stamp), "t1")
    before = await state.dump(redis)
    assert await settle(broker, clock, task, outcome, fence=lease.score) is False
    assert await state.dump(redis) == before


@each_outcome
async def test_an_active_task_without_a_lease_is_not_half_settled(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    """Go removes it from ``active``, then fails, and its hash blocks the id for ever (B4)."""
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    await state.ask(redis, "DEL", state.key("default", "lease"))
    before = await state.dump(redis)
    assert await settle(broker, clock, task, outcome) is False
    assert await state.dump(redis) == before


@each_outcome
async def test_a_leased_task_that_active_has_lost_is_settled_all_the_same(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    await state.ask(redis, "DEL", state.key("default", "active"))
    assert await settle(broker, clock, task, outcome) is True
    assert await state.invariants(redis) == []


@each_outcome
async def test_a_large_batch_of_two_queues_is_answered_task_by_task(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    count, score = 1_101, lease_score(clock)
    for queue in ("a", "b"):
        ids = {f"t{n}": score for n in range(count)}
        await state.seed_many(redis, "active", ids, queue)
    tasks = [state.message(f"t{n}", queue="ab"[n % 2]) for n in range(count)]
    reports = [
        settlement(task, outcome, clock.now(), fence="7" if n % 3 else str(STAMP))
        for n, task in enumerate(tasks)
    ]
    assert await broker.settle(reports) == [n % 3 == 0 for n in range(count)]
    assert len(await state.scores(redis, "lease", "a")) == count - len(range(0, count, 6))


@pytest.mark.parametrize("name", ["complete", "retry", "archive", "requeue"])
async def test_a_hash_of_the_wrong_type_stays_with_its_lease_and_spares_the_batch(
    broker: Broker, clock: FakeClock, redis: Redis, name: str
) -> None:
    tasks, outcome = state.messages(3), OUTCOMES[name]
    await seed(redis, clock, *tasks)
    bad, lost = (state.task_key("default", task_id) for task_id in ("t1", "t2"))
    for key in (bad, lost):
        await state.ask(redis, "DEL", key)
        await state.ask(redis, "SET", key, "noise")
    await state.ask(redis, "ZADD", state.key("default", "lease"), lease_score(clock, 7), "t2")
    answers = await broker.settle([settlement(task, outcome, clock.now()) for task in tasks])
    assert answers == [True, False, False]
    assert await state.listed(redis, "active") == ["t1", "t2"]
    assert (await state.scores(redis, "lease")).keys() == {"t1", "t2"}
    assert await state.ask(redis, "GET", bad) == b"noise"


CONTAINERS = {Complete: "completed", Retry: "retry", Archive: "archived", Requeue: "pending"}


@each_outcome
@pytest.mark.parametrize("container", ["active", "lease", "its own"])
async def test_a_container_of_the_wrong_type_changes_nothing_and_then_is_set_aside(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome, container: str
) -> None:
    name = CONTAINERS.get(type(outcome), "active") if container == "its own" else container
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    await state.ask(redis, "DEL", state.key("default", name))
    await state.ask(redis, "SET", state.key("default", name), "noise")
    before = await state.dump(redis)
    answer = await settle(broker, clock, task, outcome)
    assert isinstance(answer, BrokerError)
    aside = f"asynqpy:{{default}}:quarantine:key:{name}"
    before[aside] = before.pop(state.key("default", name))
    assert await state.dump(redis) == before
    assert await settle(broker, clock, task, outcome) is (name != "lease")


# Locks.


@pytest.mark.parametrize("outcome", [Done(), Complete()], ids=["done", "complete"])
async def test_a_lock_that_another_task_holds_by_now_stays(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    await state.ask(redis, "SET", LOCK, "another")
    assert await settle(broker, clock, task, outcome) is True
    assert await state.ask(redis, "GET", LOCK) == b"another"


@pytest.mark.parametrize("outcome", [Done(), Complete()], ids=["done", "complete"])
async def test_a_unique_key_that_is_no_lock_of_the_queue_is_left_alone(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    for n, key in enumerate(["asynq:{low}:unique:t:", "my:own:key", "asynq:{default}:paused"]):
        task = state.message(f"t{n}", unique_key=key)
        await seed(redis, clock, task)
        assert await settle(broker, clock, task, outcome) is True
        assert await state.ask(redis, "GET", key) == task.id.encode()


@pytest.mark.parametrize("outcome", [Done(), Complete()], ids=["done", "complete"])
async def test_a_lock_of_the_wrong_type_does_not_fail_the_settlement(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    task = state.message(unique_key=LOCK)
    await seed(redis, clock, task)
    await state.ask(redis, "DEL", LOCK)
    await state.ask(redis, "LPUSH", LOCK, "noise")
    assert await settle(broker, clock, task, outcome) is True


async def test_a_task_whose_id_is_in_completed_already_is_completed(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """In Go it is stuck as active, in no list (B18)."""
    task = state.message(retention=60)
    await seed(redis, clock, task)
    await state.ask(redis, "ZADD", state.key("default", "completed"), 1, "t1")
    assert await settle(broker, clock, task, Complete()) is True
    assert await state.invariants(redis) == []
    assert await state.scores(redis, "completed") == {"t1": int(clock.now()) + 60}


async def test_a_task_that_vanished_while_it_ran_is_not_put_back_as_a_ghost(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    await state.ask(redis, "DEL", state.task_key("default", "t1"))
    assert await settle(broker, clock, task, Requeue()) is False
    assert await state.invariants(redis) == []


# Counters.

COUNTED = ["done", "complete", "retry", "archive"]


@pytest.mark.parametrize("name", COUNTED)
async def test_counters_of_the_day_expire_after_90_days(
    broker: Broker, clock: FakeClock, redis: Redis, name: str
) -> None:
    tasks = state.messages(2)
    await seed(redis, clock, *tasks)
    for task in tasks:
        await settle(broker, clock, task, OUTCOMES[name])
        clock.advance(3)
    counters = ["processed", "failed"] if name in ("retry", "archive") else ["processed"]
    for counter in counters:
        ttl = await state.ask(redis, "TTL", today(clock, counter))
        assert 90 * 86_400 - 60 < ttl <= 90 * 86_400
        assert await state.ask(redis, "TTL", state.key("default", counter)) == -1
        assert await state.counter(redis, counter) == 2


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("value", [str(2**63 - 1), "noise"])
async def test_a_counter_at_its_end_starts_anew(
    broker: Broker, clock: FakeClock, redis: Redis, name: str, value: str
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    for counter in ("processed", "failed"):
        await state.ask(redis, "SET", state.key("default", counter), value)
        await state.ask(redis, "SET", today(clock, counter), value)
    assert await settle(broker, clock, task, OUTCOMES[name]) is True
    assert await state.counter(redis, "processed") == 1
    assert await state.counter(redis, f"processed:{clock.today()}") == 1


async def test_a_counter_of_the_wrong_type_starts_anew(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    await state.ask(redis, "LPUSH", state.key("default", "processed"), "noise")
    assert await settle(broker, clock, task, Done()) is True
    assert await state.counter(redis, "processed") == 1


async def test_a_batch_counts_each_settled_task_and_no_lost_one(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    tasks = state.messages(4)
    await seed(redis, clock, *tasks)
    outcomes: list[Outcome] = [Done(), Complete(), Retry(RETRY_AT, "no"), Archive("no")]
    reports = [settlement(t, o, clock.now()) for t, o in zip(tasks, outcomes, strict=True)]
    reports.append(settlement(tasks[0], Archive("late"), clock.now(), fence="7"))
    assert await broker.settle(reports) == [True, True, True, True, False]
    assert await state.counter(redis, "processed") == 4
    assert await state.counter(redis, "failed") == 2


# Crashes and owners.


@each_outcome
async def test_owner_is_no_longer_told_once_the_task_is_settled(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    await state.ask(redis, "HSET", state.task_key("default", "t1"), "owner", "host:1:a")
    assert await settle(broker, clock, task, outcome) is True
    assert "owner" not in await state.task_hash(redis, "t1")


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (Requeue(), b"1"),
        (Requeue(crashes=2), b"2"),
        (Retry(RETRY_AT, "crashed", counted=False, crashes=2), b"2"),
        (Retry(RETRY_AT, "no luck"), None),
        (Retry(RETRY_AT, "no luck", counted=False), None),
        (Complete(), None),
        (Archive("no luck"), None),
    ],
    ids=repr,
)
async def test_crashes_are_counted_until_an_attempt_ends(
    broker: Broker, clock: FakeClock, redis: Redis, outcome: Outcome, left: bytes | None
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    await state.ask(redis, "HSET", state.task_key("default", "t1"), "crashes", 1)
    for _ in range(2):  # as after a lost answer
        assert await settle(broker, clock, task, outcome) is True
    assert (await state.task_hash(redis, "t1")).get("crashes") == left


async def test_of_two_who_put_a_dead_holders_task_back_the_second_has_not(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    await seed(redis, clock, task)
    (lease,) = await silent_leases(broker, clock)
    answers = [
        await settle(broker, clock, task, Requeue(crashes=1), fence=lease.score) for _ in range(2)
    ]
    assert answers == [True, False]
    assert await state.listed(redis, "pending") == ["t1"]
