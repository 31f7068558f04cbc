"""What crashes, evictions and other programs leave behind in a queue, a function each, with raw commands.

The task that is damaged is ``bad``, of the queue ``default`` unless said otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis.asyncio import Redis

from asynqpy import Problem
from asynqpy.broker import asynq_pb2 as pb
from tests.redis_state import (
    ask,
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

Inflict: TypeAlias = Callable[[Redis], Awaitable[Any]]

GARBAGE = b"\xff\xff no protobuf"
SET = "4f9b5a52-7a5e-4c7e-9a3f-0d3b6f1c2a11"
BAD = task_key("default", "bad")


@dataclass(frozen=True)
class Damage:
    """``problem`` is what a doctor calls it; afterwards the task is in ``state``, or gone (``""``)."""

    inflict: Inflict
    problem: Problem
    state: str

    def __str__(self) -> str:
        return getattr(self.inflict, "__name__", repr(self.inflict))


DAMAGES: list[Damage] = []


def damage(problem: Problem, state: str) -> Callable[[Inflict], Inflict]:
    def register(inflict: Inflict) -> Inflict:
        DAMAGES.append(Damage(inflict, problem, state))
        return inflict

    return register


def bad(**fields: Any) -> pb.TaskMessage:
    return message("bad", **fields)


def soon() -> float:
    """The lease of a worker that lives."""
    return time.time() + 20


def long_ago() -> int:
    """Past every grace period."""
    return int(time.time()) - 100


async def seed_healthy(redis: Redis) -> None:
    """A task in every state, a lock, a group, an aggregation set at work."""
    now = int(time.time())
    lock = lock_key(name="other:")
    await seed_pending(redis, message("p"), message("locked", unique_key=lock))
    await seed_active(redis, message("a"), lease=f"{now + 25}.5")
    await seed_active(redis, message("late"), lease=now - 300)
    await seed_scheduled(redis, message("s"), at=now + 100)
    await seed_retry(redis, message("r"), at=now + 100)
    await seed_archived(redis, message("x"), at=now - 100)
    await seed_completed(redis, message("c"), until=now + 100)
    await seed_aggregating(redis, message("g", group_key="well"), at=now)
    await seed_aggregating(redis, message("set", group_key="well"), at=now)
    name = key("default", f"g:well:{SET}")
    await ask(redis, "ZREM", key("default", "g:well"), "set")
    await ask(redis, "ZADD", name, now, "set")
    await ask(redis, "ZADD", key("default", "aggregation_sets"), now + 100, name)


# I1


@damage(Problem.NO_RECORD, "")
async def pending_id_without_a_task(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "DEL", BAD)


@damage(Problem.NO_RECORD, "")
async def archived_id_without_a_task(redis: Redis) -> None:
    await seed_archived(redis, bad(), at=1)
    await ask(redis, "DEL", BAD)


@damage(Problem.NO_RECORD, "")
async def id_of_a_group_without_a_task(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="well"), at=1)
    await ask(redis, "DEL", BAD)


@damage(Problem.NO_RECORD, "")
async def active_id_without_a_task_whose_lease_ran_out(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=long_ago())
    await ask(redis, "DEL", BAD)


@damage(Problem.NO_MESSAGE, "")
async def ghost_that_dequeue_made_of_a_missing_task(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=long_ago())
    await ask(redis, "HDEL", BAD, "msg")


@damage(Problem.NO_MESSAGE, "")
async def late_result_of_a_task_that_is_gone(redis: Redis) -> None:
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "HSET", BAD, "result", "late")


@damage(Problem.NO_MESSAGE, "")
async def scheduled_task_without_a_message(redis: Redis) -> None:
    await seed_scheduled(redis, bad(), at=2_000_000_000)
    await ask(redis, "HDEL", BAD, "msg")


@damage(Problem.NOT_A_HASH, "")
async def task_that_is_no_hash(redis: Redis) -> None:
    await seed_retry(redis, bad(), at=2_000_000_000)
    await ask(redis, "SET", BAD, GARBAGE)


@damage(Problem.NOT_A_HASH, "")
async def task_that_is_no_hash_in_no_list(redis: Redis) -> None:
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "SET", BAD, GARBAGE)


@damage(Problem.UNREADABLE, "")
async def message_that_does_not_decode(redis: Redis) -> None:
    await seed_pending(redis, bad(unique_key=lock_key()))
    await ask(redis, "HSET", BAD, "msg", GARBAGE)


@damage(Problem.UNREADABLE, "")
async def message_of_another_task(redis: Redis) -> None:
    await seed_completed(redis, bad(), until=time.time() + 100)
    await ask(redis, "HSET", BAD, "msg", message("other").SerializeToString())


@damage(Problem.UNREADABLE, "")
async def message_that_does_not_decode_in_a_group(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    await ask(redis, "HSET", BAD, "msg", GARBAGE)
    await ask(redis, "HDEL", BAD, "group")


@damage(Problem.UNREADABLE, "")
async def message_that_does_not_decode_in_no_list(redis: Redis) -> None:
    await seed_archived(redis, bad(), at=1)
    await ask(redis, "HSET", BAD, "msg", GARBAGE)
    await ask(redis, "ZREM", key("default", "archived"), "bad")


@damage(Problem.WRONG_STATE, "archived")
async def archived_task_whose_state_was_not_written(redis: Redis) -> None:
    await seed_archived(redis, bad(), at=1)
    await ask(redis, "HSET", BAD, "state", "active")


@damage(Problem.WRONG_STATE, "pending")
async def pending_task_with_a_state_that_is_none(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "HSET", BAD, "state", "dreaming")


@damage(Problem.WRONG_STATE, "active")
async def running_task_whose_state_says_pending(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=soon())
    await ask(redis, "HSET", BAD, "state", "pending")


@damage(Problem.WRONG_TYPE, "pending")
async def scheduled_of_the_wrong_type(redis: Redis) -> None:
    """The tasks that it listed are in no list now; ``s`` is one of the healthy."""
    await seed_scheduled(redis, bad(), at=2_000_000_000)
    await ask(redis, "SET", key("default", "scheduled"), GARBAGE)


@damage(Problem.WRONG_TYPE, "aggregating")
async def group_of_the_wrong_type(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="ill"), at=1)
    await ask(redis, "SET", key("default", "g:ill"), GARBAGE)


@damage(Problem.WRONG_TYPE, "pending")
async def lock_of_the_wrong_type(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "RPUSH", lock_key(), "bad")


# I2


@damage(Problem.LISTED_TWICE, "pending")
async def task_twice_in_pending(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


@damage(Problem.LISTED_TWICE, "active")
async def task_twice_in_active(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=soon())
    await ask(redis, "LPUSH", key("default", "active"), "bad")


@damage(Problem.LISTED_TWICE, "aggregating")
async def task_in_two_groups(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="one"), at=1)
    await ask(redis, "ZADD", key("default", "g:two"), 1, "bad")
    await ask(redis, "SADD", key("default", "groups"), "two")


@damage(Problem.SEVERAL_PLACES, "retry")
async def task_in_retry_and_pending(redis: Redis) -> None:
    await seed_retry(redis, bad(), at=2_000_000_000)
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


@damage(Problem.SEVERAL_PLACES, "active")
async def running_task_that_is_pending_too(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=soon())
    await ask(redis, "LPUSH", key("default", "pending"), "bad", "bad")


@damage(Problem.SEVERAL_PLACES, "pending")
async def task_in_two_places_and_the_state_names_neither(redis: Redis) -> None:
    await seed_archived(redis, bad(), at=1)
    await ask(redis, "LPUSH", key("default", "pending"), "bad")
    await ask(redis, "HSET", BAD, "state", "completed")


@damage(Problem.SEVERAL_PLACES, "archived")
async def archived_task_that_is_in_a_group(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    await ask(redis, "ZADD", key("default", "archived"), 1, "bad")
    await ask(redis, "HSET", BAD, "state", "archived")


# I3


@damage(Problem.NO_LEASE, "pending")
async def active_task_without_a_lease(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=soon())
    await ask(redis, "ZREM", key("default", "lease"), "bad")


@damage(Problem.NO_LEASE, "retry")
async def task_that_stayed_in_active_when_it_was_retried(redis: Redis) -> None:
    await seed_retry(redis, bad(), at=2_000_000_000)
    await ask(redis, "LPUSH", key("default", "active"), "bad")


@damage(Problem.NOT_ACTIVE, "active")
async def running_task_that_is_not_in_active(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=soon())
    await ask(redis, "LREM", key("default", "active"), 0, "bad")


@damage(Problem.NOT_ACTIVE, "pending")
async def task_that_was_running_and_is_not_in_active(redis: Redis) -> None:
    await seed_active(redis, bad(), lease=long_ago())
    await ask(redis, "LREM", key("default", "active"), 0, "bad")


@damage(Problem.NOT_ACTIVE, "scheduled")
async def scheduled_task_with_a_lease(redis: Redis) -> None:
    await seed_scheduled(redis, bad(), at=2_000_000_000)
    await ask(redis, "ZADD", key("default", "lease"), soon(), "bad")


@damage(Problem.NO_RECORD, "")
async def lease_on_nothing(redis: Redis) -> None:
    await seed_pending(redis, message("p2"))
    await ask(redis, "ZADD", key("default", "lease"), soon(), "bad")


# I4


@damage(Problem.ORPHAN, "pending")
async def pending_task_in_no_list(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "LREM", key("default", "pending"), 0, "bad")


@damage(Problem.ORPHAN, "pending")
async def active_task_in_no_list(redis: Redis) -> None:
    """What asynq's ``done`` leaves when it finds no lease (B4)."""
    await seed_active(redis, bad(unique_key=lock_key()), lease=1)
    await ask(redis, "ZREM", key("default", "lease"), "bad")
    await ask(redis, "LREM", key("default", "active"), 0, "bad")


@damage(Problem.ORPHAN, "pending")
async def scheduled_task_in_no_list(redis: Redis) -> None:
    await seed_scheduled(redis, bad(), at=2_000_000_000)
    await ask(redis, "ZREM", key("default", "scheduled"), "bad")


@damage(Problem.ORPHAN, "aggregating")
async def aggregating_task_in_no_group(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="g"), at=1)
    await ask(redis, "DEL", key("default", "g:g"))
    await ask(redis, "SREM", key("default", "groups"), "g")


@damage(Problem.ORPHAN, "archived")
async def archived_task_in_no_list(redis: Redis) -> None:
    await seed_archived(redis, bad(last_failed_at=1_700_000_000), at=1)
    await ask(redis, "ZREM", key("default", "archived"), "bad")


@damage(Problem.ORPHAN, "completed")
async def completed_task_in_no_list(redis: Redis) -> None:
    kept = bad(completed_at=int(time.time()), retention=1000)
    await seed_completed(redis, kept, until=1)
    await ask(redis, "ZREM", key("default", "completed"), "bad")


@damage(Problem.ORPHAN, "")
async def completed_task_in_no_list_past_its_retention(redis: Redis) -> None:
    await seed_completed(redis, bad(completed_at=1_700_000_000, retention=10), until=1)
    await ask(redis, "ZREM", key("default", "completed"), "bad")


@damage(Problem.ORPHAN, "pending")
async def task_without_a_state_in_no_list(redis: Redis) -> None:
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "HSET", BAD, "msg", bad().SerializeToString())


# I5


@damage(Problem.LEAKED_LOCK, "")
async def lock_of_a_task_that_is_gone(redis: Redis) -> None:
    await seed_pending(redis, message("p2"))
    await ask(redis, "SET", lock_key(), "bad", "EX", 1000)


@damage(Problem.LEAKED_LOCK, "completed")
async def lock_of_a_completed_task(redis: Redis) -> None:
    await seed_completed(redis, bad(unique_key=lock_key()), until=time.time() + 1000)


@damage(Problem.LEAKED_LOCK, "pending")
async def lock_of_a_task_that_knows_nothing_of_it(redis: Redis) -> None:
    """Go sets it before it finds that the id is taken."""
    await seed_pending(redis, bad())
    await ask(redis, "SET", lock_key(), "bad", "EX", 1000)


# I6


@damage(Problem.UNINDEXED_GROUP, "aggregating")
async def group_that_is_not_listed(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="hidden"), at=1)
    await ask(redis, "SREM", key("default", "groups"), "hidden")


@damage(Problem.EMPTY_GROUP, "")
async def listed_group_without_members(redis: Redis) -> None:
    await seed_pending(redis, message("p2"))
    await ask(redis, "SADD", key("default", "groups"), "empty")


# I7


@damage(Problem.LOST_SET, "")
async def entry_of_an_aggregation_set_that_is_gone(redis: Redis) -> None:
    await seed_pending(redis, message("p2"))
    entry = key("default", f"g:gone:{SET}")
    await ask(redis, "ZADD", key("default", "aggregation_sets"), 2_000_000_000, entry)


@damage(Problem.LOST_SET, "")
async def entry_that_is_the_name_of_no_aggregation_set(redis: Redis) -> None:
    await seed_pending(redis, message("p2"))
    await ask(redis, "ZADD", key("default", "aggregation_sets"), 2_000_000_000, "rubbish")


@damage(Problem.STALE_SET, "aggregating")
async def aggregation_set_without_an_entry(redis: Redis) -> None:
    await seed_aggregating(redis, bad(group_key="a:b"), at=1_700_000_000)
    await ask(redis, "RENAME", key("default", "g:a:b"), key("default", f"g:a:b:{SET}"))
    await ask(redis, "SREM", key("default", "groups"), "a:b")


@damage(Problem.STALE_SET, "aggregating")
async def aggregation_set_of_an_aggregator_that_died(redis: Redis) -> None:
    await aggregation_set_without_an_entry_at(redis, long_ago())


async def aggregation_set_without_an_entry_at(redis: Redis, deadline: float) -> None:
    await seed_aggregating(redis, bad(group_key="a:b"), at=1_700_000_000)
    name = key("default", f"g:a:b:{SET}")
    await ask(redis, "RENAME", key("default", "g:a:b"), name)
    await ask(redis, "SREM", key("default", "groups"), "a:b")
    await ask(redis, "ZADD", key("default", "aggregation_sets"), deadline, name)


# I8


@damage(Problem.UNREGISTERED, "pending")
async def queue_that_is_not_registered(redis: Redis) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "SREM", "asynq:queues", "default")
