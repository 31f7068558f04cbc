"""The archive of a queue stays small enough for Go, whose own trim fails for good above some 18,000 (B15)."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive
from tests import redis_state as state
from tests.broker.factories import lease_score, settlement
from tests.fake_clock import FakeClock

LIMIT = 10_000
DAY = 86_400


@pytest.fixture(autouse=True)
async def _without_debug_mode() -> None:
    asyncio.get_running_loop().set_debug(False)


async def archive(broker: Broker, clock: FakeClock, redis: Redis, *ids: str) -> None:
    """Let tasks of these ids fail for good, in one batch."""
    tasks = [state.message(task_id) for task_id in ids]
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    reports = [settlement(task, Archive("no luck"), clock.now()) for task in tasks]
    assert await broker.settle(reports) == [True] * len(ids)


async def archived(redis: Redis) -> list[str]:
    return list(await state.scores(redis, "archived"))


async def hashes(redis: Redis) -> int:
    return len(await state.ask(redis, "KEYS", "asynq:{default}:t:*"))


async def test_exactly_the_newest_10_000_are_kept_and_the_rest_goes_whole(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """Go keeps 9,999 (B16)."""
    now = int(clock.now())
    await state.seed_many(redis, "archived", {f"a{n:05}": now - LIMIT + n for n in range(LIMIT)})
    await archive(broker, clock, redis, "x", "y", "z")
    kept = await archived(redis)
    assert (len(kept), kept[0], kept[-1]) == (LIMIT, "a00003", "z")
    assert await hashes(redis) == LIMIT


async def test_a_single_task_over_the_limit_takes_the_oldest_away(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    now = int(clock.now())
    ids = {f"a{n:05}": now - LIMIT + n for n in range(LIMIT - 1)}
    await state.seed_many(redis, "archived", ids)
    await archive(broker, clock, redis, "x")
    assert len(await archived(redis)) == LIMIT
    await archive(broker, clock, redis, "y")
    assert (await archived(redis))[0] == "a00001"


async def test_thousands_that_grow_too_old_at_once_are_dropped_bit_by_bit(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """In Go the first archive after a day of mass failure fails, and so does every later one (B15)."""
    await state.seed_many(redis, "archived", {f"a{n}": clock.now() for n in range(8_600)})
    clock.advance(90 * DAY)
    await archive(broker, clock, redis, "first")
    assert await state.states(redis, "first") == ["archived"]
    left = len(await archived(redis))
    assert 0 < left < 8_601
    for n in range(18):
        await archive(broker, clock, redis, f"later{n}")
    assert await archived(redis) == sorted(["first", *(f"later{n}" for n in range(18))])
    assert await hashes(redis) == 19


async def test_a_task_is_kept_for_90_days_to_the_second(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    now = int(clock.now())
    await state.seed_archived(redis, state.message("old"), at=now - 90 * DAY)
    await state.seed_archived(redis, state.message("young"), at=now - 90 * DAY + 1)
    await archive(broker, clock, redis, "new")
    assert await archived(redis) == ["young", "new"]
    assert await state.states(redis, "old") == [""]


async def test_trimmed_tasks_release_their_locks_but_no_others(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """Go leaves the locks (B20), and the hashes too where people archive (B17)."""
    locks = [state.lock_key(name=f"t:{n}") for n in range(3)]
    old = [state.message(f"old{n}", unique_key=lock) for n, lock in enumerate(locks)]
    await state.seed_archived(redis, *old, at=1)
    await state.ask(redis, "SET", locks[1], "another")
    await state.ask(redis, "DEL", locks[2])
    await state.ask(redis, "LPUSH", locks[2], "noise")
    await archive(broker, clock, redis, "new")
    assert await state.ask(redis, "MGET", *locks) == [None, b"another", None]
    assert await state.states(redis, "old0", "old1", "old2") == ["", "", ""]


async def test_trimming_gets_past_hashes_that_are_gone_or_of_the_wrong_type(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.seed_archived(redis, *state.messages(3), at=1)
    await state.ask(redis, "DEL", state.task_key("default", "t0"), state.task_key("default", "t1"))
    await state.ask(redis, "SET", state.task_key("default", "t1"), "noise")
    await archive(broker, clock, redis, "new")
    assert await archived(redis) == ["new"]
    assert await state.invariants(redis) == []


async def test_an_archive_that_go_overfilled_shrinks_with_each_task(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.seed_many(redis, "archived", {f"a{n}": clock.now() for n in range(LIMIT + 900)})
    await archive(broker, clock, redis, "x")
    assert len(await archived(redis)) == LIMIT + 401
    await archive(broker, clock, redis, "y")
    assert len(await archived(redis)) == LIMIT
    assert await hashes(redis) == LIMIT
