"""Random damage to a random sound queue: healing makes it sound, and loses no task that can be read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from asynqpy import Doctor
from tests.raw_redis import raw_client
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
    seed_completed,
    seed_pending,
    seed_retry,
    seed_scheduled,
    task_key,
)

IDS = [f"t{n}" for n in range(6)]
LISTS = ["pending", "active"]
SORTED_SETS = ["scheduled", "retry", "archived", "completed", "lease", "g:one", "g:two"]
CONTAINERS = [*LISTS, *SORTED_SETS, "groups", "aggregation_sets"]
STATES = ["pending", "active", "scheduled", "retry", "archived", "completed", "aggregating", "none"]
SET = "g:one:4f9b5a52-7a5e-4c7e-9a3f-0d3b6f1c2a11"
FUTURE, PAST = 4_000_000_000, 1_700_000_000

ids = st.sampled_from(IDS)
scores = st.sampled_from([FUTURE, PAST])


@dataclass(frozen=True)
class Blow:
    """A raw command against the queue ``default``."""

    words: tuple[Any, ...]

    def __repr__(self) -> str:
        return " ".join(map(str, self.words))


def blow(word: str, name: str | Callable[[str], str], *rest: st.SearchStrategy[Any]) -> Any:
    """``name`` is that of a key, or makes one from an id that is drawn first."""
    if callable(name):
        drawn = st.tuples(ids.map(lambda i: key("default", name(i))), *rest)
    else:
        drawn = st.tuples(st.just(key("default", name)), *rest)
    return drawn.map(lambda words: Blow((word, *words)))


blows = st.one_of(
    st.sampled_from(LISTS).flatmap(lambda name: blow("LPUSH", name, ids)),
    st.sampled_from(LISTS).flatmap(lambda name: blow("LREM", name, st.just(0), ids)),
    st.sampled_from(SORTED_SETS).flatmap(lambda name: blow("ZADD", name, scores, ids)),
    st.sampled_from(SORTED_SETS).flatmap(lambda name: blow("ZREM", name, ids)),
    st.sampled_from(CONTAINERS).flatmap(lambda name: blow("DEL", name)),
    st.sampled_from(CONTAINERS).flatmap(lambda name: blow("SET", name, st.just("rubbish"))),
    blow("DEL", lambda i: f"t:{i}"),
    blow("SET", lambda i: f"t:{i}", st.just("rubbish")),
    blow("HSET", lambda i: f"t:{i}", st.just("state"), st.sampled_from(STATES)),
    blow("HSET", lambda i: f"t:{i}", st.just("msg"), st.sampled_from([b"\xff", b""])),
    blow("HSET", lambda i: f"t:{i}", st.just("result"), st.just("late")),
    blow("HDEL", lambda i: f"t:{i}", st.sampled_from(["msg", "state", "group"])),
    blow("SET", lambda i: f"unique:{i}:", ids),
    blow("SADD", "groups", st.sampled_from(["one", "two", "none"])),
    blow("SREM", "groups", st.sampled_from(["one", "two"])),
    blow("ZADD", SET, scores, ids),
    blow("ZADD", "aggregation_sets", scores, st.just(key("default", SET))),
)


async def seed(redis: Redis, states: list[str]) -> None:
    now = int(time.time())
    for task_id, state in zip(IDS, states, strict=False):
        lock = "" if state == "completed" else lock_key(name=f"{task_id}:")
        group = {"group_key": "one"} if state == "aggregating" else {}
        task = message(task_id, unique_key=lock, completed_at=now, retention=1000, **group)
        await _SEEDS[state](redis, task)


_SEEDS: dict[str, Callable[[Redis, Any], Any]] = {
    "pending": lambda redis, task: seed_pending(redis, task),
    "active": lambda redis, task: seed_active(redis, task, lease=FUTURE),
    "scheduled": lambda redis, task: seed_scheduled(redis, task, at=FUTURE),
    "retry": lambda redis, task: seed_retry(redis, task, at=FUTURE),
    "archived": lambda redis, task: seed_archived(redis, task, at=PAST),
    "completed": lambda redis, task: seed_completed(redis, task, until=FUTURE),
    "aggregating": lambda redis, task: seed_aggregating(redis, task, at=PAST),
}


async def strike(redis: Redis, words: tuple[Any, ...]) -> None:
    """A blow that a key of another type wards off misses."""
    try:
        await ask(redis, *words)
    except Exception as error:
        if "WRONGTYPE" not in str(error):
            raise


async def readable(redis: Redis) -> set[str]:
    """Tasks whose hash has a message that decodes."""
    found = set()
    for task_id in IDS:
        kind = await ask(redis, "TYPE", task_key("default", task_id))
        data = (
            await ask(redis, "HGET", task_key("default", task_id), "msg")
            if kind == b"hash"
            else b""
        )
        if data and data != b"\xff":
            found.add(task_id)
    return found


async def check(url: str, states: list[str], damage: list[Blow]) -> None:
    async with raw_client(url) as redis, Doctor(url) as doctor:
        await ask(redis, "FLUSHALL")
        await seed(redis, states)
        assert await invariants(redis) == []
        assert (await doctor.examine()).is_healthy
        for one in damage:
            await strike(redis, one.words)
        before = await dump(redis)
        there = await readable(redis)
        told = await doctor.examine()
        assert await dump(redis) == before
        # Whatever a living worker holds is left to it: as if its lease had run out meanwhile.
        healed = await doctor.heal()
        if not healed.is_healthy:
            await expire_leases(redis)
            assert (await doctor.heal()).is_healthy
        assert await invariants(redis) == []
        assert await readable(redis) == there
        assert told.is_healthy == (not healed.problems)
        assert (await doctor.heal()).problems == {}


async def expire_leases(redis: Redis) -> None:
    for task_id in IDS:
        await ask(redis, "ZADD", key("default", "lease"), "XX", PAST, task_id)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    states=st.lists(st.sampled_from(sorted(_SEEDS)), max_size=len(IDS)),
    damage=st.lists(blows, min_size=1, max_size=8),
)
def test_any_damage_is_healed_and_no_task_is_lost(
    redis_url: str, states: list[str], damage: list[Blow]
) -> None:
    asyncio.run(check(redis_url, states, damage))
