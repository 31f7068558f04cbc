"""B15-B18: what goes wrong in asynq when a task is archived or completed, and the archive is trimmed."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy import Inspector
from asynqpy.broker.outcomes import Archive, Complete
from asynqpy.broker.settling import ARCHIVE_LIMIT, ARCHIVE_TTL
from tests.broker.factories import lease_score, settlement
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    counter,
    invariants,
    key,
    listed,
    lock_key,
    message,
    messages,
    scores,
    seed_active,
    seed_archived,
    seed_many,
    seed_pending,
    states,
    task_hash,
)


async def archive(broker: FlakyBroker, redis: Redis, *task_ids: str) -> list[object]:
    """Archive tasks as the worker that runs them does, one call after the other."""
    answers: list[object] = []
    for task_id in task_ids:
        task = message(task_id)
        await seed_active(redis, task, lease=lease_score(broker.clock))
        answers += await broker.settle([settlement(task, Archive("no"), broker.clock.now())])
    return answers


async def test_b15_a_task_is_archived_though_more_than_8000_others_are_too_old(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq unpacks all that are to go into one call. Lua has room for 7,999: with more, the script fails half-way."""
    too_old = clock.now() - ARCHIVE_TTL - 1
    await seed_many(redis, "archived", {f"old-{n}": too_old for n in range(8_200)})
    assert await archive(broker, redis, "t1") == [True]
    assert await states(redis, "t1") == ["archived"]
    assert await listed(redis, "active") == []
    assert await counter(redis, "failed") == 1
    assert len(await scores(redis, "archived")) == 8_200 - 500 + 1

    later = [f"later-{n}" for n in range(16)]
    assert await archive(broker, redis, *later) == [True] * 16
    assert set(await scores(redis, "archived")) == {"t1", *later}
    assert await invariants(redis) == []


async def test_b15_a_task_is_archived_though_8000_others_are_too_many(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """The same in asynq when somebody has let the archive grow past its limit."""
    too_many = ARCHIVE_LIMIT + 8_000
    await seed_many(redis, "archived", {f"old-{n:05}": clock.now() - 99 for n in range(too_many)})
    assert await archive(broker, redis, "t1") == [True]
    assert await states(redis, "t1", "old-00000", "old-17999") == ["archived", "", "archived"]
    assert len(await scores(redis, "archived")) == too_many - 500 + 1


async def test_b16_the_archive_keeps_as_many_as_its_limit_says(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq trims one too many: 9,999 are left of a limit of 10,000."""
    full = {f"old-{n:04}": clock.now() - 99 for n in range(ARCHIVE_LIMIT)}
    await seed_many(redis, "archived", full)
    assert await archive(broker, redis, "t1") == [True]
    kept = await scores(redis, "archived")
    assert len(kept) == ARCHIVE_LIMIT
    assert kept.keys() == full.keys() - {"old-0000"} | {"t1"}
    assert await states(redis, "old-0000") == [""]


async def test_b16_with_a_limit_of_one_the_task_just_archived_is_kept(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq then deletes the very task it archives, and writes its hash once more: an orphan."""
    monkeypatch.setattr("asynqpy.broker.settling.ARCHIVE_LIMIT", 1)
    assert await archive(broker, redis, "t1", "t2") == [True, True]
    assert list(await scores(redis, "archived")) == ["t2"]
    assert await states(redis, "t1", "t2") == ["", "archived"]
    assert await invariants(redis) == []


async def test_b17_what_is_trimmed_goes_with_its_hash_and_its_lock(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq's Inspector archives by four scripts of its own, which trim the entries and leave the hashes behind."""
    monkeypatch.setattr("asynqpy.broker.settling.ARCHIVE_LIMIT", 3)
    locked = message("locked", unique_key=lock_key())
    await seed_archived(redis, locked, *messages(4), at=clock.now() - 99)
    assert await archive(broker, redis, "t9") == [True]
    assert len(await scores(redis, "archived")) == 3
    assert await task_hash(redis, "locked") == {}
    assert await ask(redis, "EXISTS", lock_key()) == 0
    assert await invariants(redis) == []


async def test_b17_what_the_inspector_trims_goes_with_its_hash_and_its_lock(
    redis_url: str, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.broker.admin.moving.ARCHIVE_LIMIT", 3)
    locked = message("locked", unique_key=lock_key())
    await seed_archived(redis, locked, at=clock.now() - 99)
    await seed_pending(redis, *messages(5))
    async with Inspector(redis_url) as inspector:
        assert await inspector.archive_all_tasks("default", "pending") == 5
    assert len(await scores(redis, "archived")) == 3
    assert await task_hash(redis, "locked") == {}
    assert await ask(redis, "EXISTS", lock_key()) == 0
    assert await invariants(redis) == []


async def test_b18_a_task_that_is_listed_as_completed_already_is_completed_all_the_same(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq takes that for an error, after the task has left `active`: its hash stays behind, in no list."""
    task = message(retention=3600)
    await seed_active(redis, task, lease=lease_score(clock))
    await ask(redis, "ZADD", key("default", "completed"), clock.now() + 60, "t1")
    assert await broker.settle([settlement(task, Complete(), clock.now())]) == [True]
    assert await states(redis, "t1") == ["completed"]
    assert await scores(redis, "completed") == {"t1": clock.now() + 3600}
    assert await counter(redis, "processed") == 1
    assert await invariants(redis) == []
