from __future__ import annotations

from redis.asyncio import Redis

from asynqpy import Client, Task
from tests.chaos.verifier import drain, verify
from tests.redis_state import (
    ask,
    lock_key,
    message,
    seed_active,
    seed_archived,
    seed_pending,
    task_key,
)

QUEUES = ["default"]


async def test_drained_queue_is_sound(redis_url: str, redis: Redis) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("t"), task_id="t1")
    await ask(redis, "DEL", "asynq:{default}:pending", task_key("default", "t1"))
    verdict = await verify(redis_url, QUEUES)
    assert (verdict.left, verdict.unsound, verdict.keys) == ({}, [], [])
    assert await drain(redis_url, QUEUES, within=5) is not None


async def test_task_that_still_waits_is_stuck(redis_url: str, redis: Redis) -> None:
    await seed_pending(redis, message("t1"))
    await seed_active(redis, message("t2"), lease=2_000_000_000)
    verdict = await verify(redis_url, QUEUES)
    assert verdict.left == {"default:pending": ["t1"], "default:active": ["t2"]}
    assert (verdict.stuck, verdict.unsound, verdict.keys) == (2, [], [])
    assert await drain(redis_url, QUEUES, within=0.2) is None


async def test_archived_task_tells_its_error(redis_url: str, redis: Redis) -> None:
    await seed_archived(redis, message("t1", error_msg="it failed"), at=1_700_000_000)
    assert (await verify(redis_url, QUEUES)).archived == {"t1": "it failed"}


async def test_lock_of_a_task_that_is_gone_has_leaked(redis_url: str, redis: Redis) -> None:
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "SET", lock_key(), "t1", "EX", 100)
    verdict = await verify(redis_url, QUEUES)
    assert len(verdict.locks) == 1
    assert verdict.unsound == [
        f"default: {breach.removeprefix('default: ')}" for breach in verdict.locks
    ]


async def test_key_that_nothing_accounts_for_has_leaked(redis_url: str, redis: Redis) -> None:
    await ask(redis, "SET", "asynq:{default}:something", "1")
    await ask(redis, "SET", "asynq:{default}:short-lived", "1", "EX", 100)
    assert (await verify(redis_url, QUEUES)).keys == ["asynq:{default}:something"]
