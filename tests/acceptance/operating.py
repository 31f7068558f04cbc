"""What the operator of docs/guide/security.md does, step by step."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis

from asynqpy import Inspector, TaskState
from asynqpy.broker.admin.queues import MOST_GROUPS
from tests.acceptance.permissions import STEPS as STEPS
from tests.acceptance.permissions import operator
from tests.broker.factories import SERVER, WORKER
from tests.damage import seed_healthy
from tests.redis_state import (
    ask,
    key,
    lock_key,
    message,
    messages,
    seed_aggregating,
    seed_archived,
    seed_completed,
    seed_pending,
    seed_retry,
    task_key,
)

QUEUE = "default"


async def a_healthy_queue(redis: Redis) -> None:
    await seed_healthy(redis)
    await ask(redis, "SET", key(QUEUE, "processed"), 5)
    scheduler = "asynq:schedulers:{h:1:s}"
    await ask(redis, "ZADD", "asynq:schedulers", time.time() + 60, scheduler)
    await ask(redis, "ZADD", "asynq:servers", time.time() + 60, f"asynq:servers:{{{SERVER.owner}}}")
    await ask(redis, "ZADD", "asynq:workers", time.time() + 60, f"asynq:workers:{{{SERVER.owner}}}")
    await ask(redis, "HSET", f"asynq:workers:{{{SERVER.owner}}}", "t1", WORKER.encode())


@operator(seed=a_healthy_queue)
async def look_at_everything(url: str) -> None:
    async with Inspector(url) as inspector:
        await inspector.ping()
        for queue in await inspector.queues():
            await inspector.get_queue_info(queue)
            await inspector.history(queue, 2)
            await inspector.groups(queue)
            for state in TaskState:
                group = "well" if state is TaskState.AGGREGATING else ""
                for task in await inspector.list_tasks(queue, state, group=group):
                    await inspector.get_task(queue, task.id)
                async for _ in inspector.iter_tasks(queue, state, group=group):
                    pass
        await inspector.servers()
        await inspector.scheduler_entries()
        await inspector.scheduler_enqueue_events("e1")


async def many_groups(redis: Redis) -> None:
    await ask(redis, "SADD", "asynq:queues", QUEUE)
    await ask(redis, "SADD", key(QUEUE, "groups"), *(f"g{n}" for n in range(MOST_GROUPS + 1)))


@operator(seed=many_groups)
async def look_at_many_groups(url: str) -> None:
    async with Inspector(url) as inspector:
        await inspector.get_queue_info(QUEUE)


@operator(seed=a_healthy_queue)
async def steer_one_task_after_the_other(url: str) -> None:
    async with Inspector(url) as inspector:
        await inspector.pause_queue(QUEUE)
        await inspector.unpause_queue(QUEUE)
        await inspector.cancel_processing("a")
        await inspector.update_task_payload(QUEUE, "locked", b"new")
        await inspector.reschedule_task(QUEUE, "r", datetime.now(UTC) + timedelta(hours=1))
        await inspector.run_task(QUEUE, "s")
        await inspector.archive_task(QUEUE, "p")
        await inspector.requeue_task(QUEUE, "x")
        await inspector.delete_task(QUEUE, "locked")


async def a_queue_to_be_deleted(redis: Redis) -> None:
    """Also an aggregation set that nobody works on, and the lock of a task that is gone."""
    await seed_pending(redis, message("p", unique_key=lock_key()), *messages(3))
    await seed_retry(redis, message("r"), at=1)
    await seed_archived(redis, message("x"), at=1)
    await seed_completed(redis, message("c"), until=2e9)
    await seed_aggregating(redis, message("g", group_key="g"), at=1)
    await ask(redis, "RENAME", key(QUEUE, "g:g"), key(QUEUE, "g:g:1"))
    await ask(redis, "ZADD", key(QUEUE, "aggregation_sets"), 1, key(QUEUE, "g:g:1"))
    await ask(redis, "SET", lock_key(name="gone:"), "gone")
    await ask(redis, "DEL", task_key(QUEUE, "t1"))


@operator(seed=a_queue_to_be_deleted)
async def steer_many_and_delete_the_queue(url: str) -> None:
    async with Inspector(url) as inspector:
        await inspector.archive_all_tasks(QUEUE, "retry")
        await inspector.run_all_tasks(QUEUE, "archived")
        await inspector.delete_all_tasks(QUEUE, "completed")
        await inspector.delete_queue(QUEUE, force=True)
