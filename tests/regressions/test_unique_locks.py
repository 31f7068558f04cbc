"""B19-B21: unique locks that asynq leaves behind, or ends too early."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy import Client, DuplicateTaskError, Inspector, Task, TaskIdConflictError, TaskOptions
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome
from tests.broker.factories import LOCK, lease_score, new_task, settlement
from tests.fake_clock import FakeClock
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    lock_key,
    message,
    seed_active,
    seed_aggregating,
    seed_archived,
    seed_pending,
    seed_scheduled,
    task_hash,
    task_key,
)

ENTRANCES: dict[str, TaskOptions] = {
    "pending": {"unique": 60},
    "scheduled": {"unique": 60, "process_in": 60},
    "group": {"unique": 60, "group": "g"},
}


@pytest.mark.parametrize("entrance", ENTRANCES)
async def test_b19_a_task_refused_for_its_id_leaves_no_lock(
    client: Client, redis: Redis, entrance: str
) -> None:
    """asynq sets the lock before it looks for the id, and leaves it set: nothing is queued, and nothing gets in."""
    await client.enqueue(Task("other"), task_id="t1")
    before = await dump(redis)
    with pytest.raises(TaskIdConflictError):
        await client.enqueue(Task("email", task_id="t1"), **ENTRANCES[entrance])
    assert await dump(redis) == before
    await client.enqueue(Task("email"), **ENTRANCES[entrance])
    assert await invariants(redis) == []


@pytest.mark.parametrize("entrance", ENTRANCES)
async def test_b20_a_task_with_a_lock_says_so_in_its_hash(
    client: Client, redis: Redis, entrance: str
) -> None:
    """asynq does not for tasks of a group, so whoever deletes one cannot know which lock to release."""
    await client.enqueue(Task("email", task_id="t1"), **ENTRANCES[entrance])
    lock = (await task_hash(redis, "t1"))["unique_key"]
    assert await ask(redis, "GET", lock) == b"t1"


async def test_b20_a_lock_whose_task_was_deleted_keeps_nobody_out(
    client: Client, redis: Redis
) -> None:
    """asynq deletes tasks without their locks in six places, and a lock that holds nothing lasts for its whole time."""
    first = await client.enqueue(Task("email"), unique=3600)
    await ask(redis, "DEL", key("default", f"t:{first.id}"), key("default", "pending"))
    second = await client.enqueue(Task("email"), unique=3600)
    lock = (await task_hash(redis, second.id))["unique_key"]
    assert await ask(redis, "GET", lock) == second.id.encode()
    assert await invariants(redis) == []


async def test_b20_an_archive_that_is_trimmed_releases_locks(
    broker: Broker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq deletes what it trims without a look at the locks."""
    monkeypatch.setattr("asynqpy.broker.settling.ARCHIVE_LIMIT", 1)
    await seed_archived(redis, message("old", unique_key=LOCK), at=clock.now() - 9)
    task = message("new")
    await seed_active(redis, task, lease=lease_score(clock))
    assert await broker.settle([settlement(task, Archive("no"), clock.now())]) == [True]
    assert await ask(redis, "EXISTS", LOCK) == 0
    assert await broker.enqueue([new_task("next", lock=LOCK)]) == [None]


@pytest.mark.parametrize("task_state", ["pending", "scheduled", "aggregating"])
async def test_b20_the_inspector_deletes_a_task_with_its_lock(
    redis_url: str, redis: Redis, task_state: str
) -> None:
    lock, group = lock_key(), "g" if task_state == "aggregating" else ""
    task = message(unique_key=lock, group_key=group)
    if task_state == "pending":
        await seed_pending(redis, task)
    elif task_state == "scheduled":
        await seed_scheduled(redis, task, at=9e9)
    else:
        await seed_aggregating(redis, task, at=1)
    await ask(
        redis, "HDEL", task_key("default", "t1"), "unique_key"
    )  # as Go's client leaves it out
    async with Inspector(redis_url) as inspector:
        assert await inspector.delete_all_tasks("default", task_state, group=group) == 1
    assert await ask(redis, "EXISTS", lock) == 0


@pytest.mark.parametrize(
    "outcome", [Done(), Complete()], ids=lambda outcome: type(outcome).__name__.lower()
)
async def test_b21_a_task_that_outlived_its_lock_does_not_release_that_of_the_next(
    broker: Broker, redis: Redis, clock: FakeClock, outcome: Outcome
) -> None:
    """A lock ends after its time in asynq and here, its task pending or not: the next one's is its own all the same."""
    first = message("first", unique_key=LOCK)
    await seed_active(redis, first, lease=lease_score(clock))
    await ask(redis, "DEL", LOCK)  # its time is over
    assert await broker.enqueue([new_task("second", lock=LOCK)]) == [None]
    assert await broker.settle([settlement(first, outcome, clock.now())]) == [True]
    assert await ask(redis, "GET", LOCK) == b"second"
    (refusal,) = await broker.enqueue([new_task("third", lock=LOCK)])
    assert isinstance(refusal, DuplicateTaskError)


async def test_b21_a_lock_lasts_for_as_long_as_was_asked_and_covers_the_delay(
    client: Client, redis: Redis
) -> None:
    """asynq cuts fractions of a second off, and knows no lock of less than one."""
    task = await client.enqueue(Task("email"), unique=0.5)
    lock = (await task_hash(redis, task.id))["unique_key"]
    assert 0 < await ask(redis, "PTTL", lock) <= 1_000
    later = await client.enqueue(Task("later"), unique=1.5, process_in=100)
    lock = (await task_hash(redis, later.id))["unique_key"]
    assert 100_000 < await ask(redis, "PTTL", lock) <= 102_000


async def test_b21_a_lock_that_redis_evicted_admits_the_next_task_and_nothing_breaks(
    broker: Broker, redis: Redis, clock: FakeClock
) -> None:
    """Nothing on the wire can prevent it, in asynq or here: both run, and each is settled."""
    tasks = [message("first", unique_key=LOCK), message("second", unique_key=LOCK)]
    await seed_pending(redis, tasks[0])
    await ask(redis, "DEL", LOCK)
    await seed_pending(redis, tasks[1])
    turn = await broker.dequeue({"default": 2})
    now = clock.now()
    reports = [
        settlement(task, Done(), now, fence=delivery.lease.fence)
        for task, delivery in zip(tasks, turn.deliveries, strict=True)
    ]
    assert await broker.settle(reports) == [True, True]
    assert await ask(redis, "EXISTS", LOCK) == 0
    assert await invariants(redis) == []
