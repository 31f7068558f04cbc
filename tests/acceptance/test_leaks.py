"""What is left behind when everything is done: in Redis, in memory, in the event loop."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial

from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, RevokeTask, ServeMux, SkipRetry, Task
from tests.acceptance.serving import serving, without_debugging
from tests.eventually import eventually
from tests.redis_state import ask, counter, dump, key, scores, task_key

#: Keys of a queue that stay: its totals, and those of the day, which expire.
LASTING = re.compile(r"asynq:\{\w+\}:(processed|failed)(:\d{4}-\d{2}-\d{2})?")

#: Blocks of memory that may come and go with connections and caches. One leaked with each task would be twice as many.
SLACK = 5_000


def shop() -> ServeMux:
    """Handlers that end in every way there is."""
    mux = ServeMux()

    @mux.handler("succeed")
    async def succeed(task: ActiveTask) -> None:
        await task.write_result({"done": task.id})

    @mux.handler("block")
    def block(task: ActiveTask) -> None:
        task.wait_for(task.write_result(b"done"))

    @mux.handler("fail-once")
    async def fail_once(task: ActiveTask) -> None:
        if not task.retried:
            raise OSError("try again")

    @mux.handler("skip")
    async def skip(task: ActiveTask) -> None:
        raise SkipRetry("hopeless")

    @mux.handler("revoke")
    async def revoke(task: ActiveTask) -> None:
        raise RevokeTask("not wanted any more")

    @mux.handler("overrun")
    async def overrun(task: ActiveTask) -> None:
        if not task.retried:
            await asyncio.Event().wait()

    return mux


def orders() -> list[Task]:
    """Tasks for every handler of the shop, in every way in which tasks are enqueued."""
    return [
        Task("succeed"),
        Task("succeed", {"n": 1}, unique=600),
        Task("succeed", {"n": 2}, retention=1),
        Task("succeed", {"n": 3}, retention=1, unique=600, queue="low"),
        Task("succeed", {"n": 4}, process_in=1, unique=600, task_id="mine"),
        Task("block"),
        Task("block", retention=1),
        Task("fail-once", unique=600, headers={"trace": "abc"}),
        Task("skip"),
        Task("skip", queue="low"),
        Task("revoke", unique=600),
        Task("overrun", timeout=1),
        Task("nobody", max_retry=0),
    ]


async def delete_archived(redis: Redis, queue: str) -> None:
    """As somebody with an inspector would."""
    for task_id in await scores(redis, "archived", queue):
        await ask(redis, "ZREM", key(queue, "archived"), task_id)
        await ask(redis, "DEL", task_key(queue, task_id))


def settled(redis: Redis) -> Callable[[], Awaitable[bool]]:
    """Whether nothing is left to do but for archived tasks."""
    ways = ("pending", "active", "lease", "scheduled", "retry", "completed")

    async def look() -> bool:
        names = {name.decode().rpartition(":")[2] for name in await ask(redis, "KEYS", "*")}
        return not names.intersection(ways)

    return look


async def test_only_documented_keys_are_left_when_everything_is_done(
    redis_url: str, redis: Redis
) -> None:
    queues = {"default": 3, "low": 1}
    async with (
        Client(redis_url) as client,
        serving(redis_url, shop(), queues=queues, retry_delay=lambda *_: 0),
    ):
        await client.enqueue_many(orders())
        await eventually(settled(redis), within=15)
    assert [len(await scores(redis, "archived", queue)) for queue in queues] == [2, 1]
    for queue in queues:
        await delete_archived(redis, queue)
    left = set(await dump(redis)) - {"asynq:queues"}
    assert [name for name in left if not LASTING.fullmatch(name)] == []
    assert [await counter(redis, "failed", queue) for queue in queues] == [4, 1]
    for name in left:
        assert (await ask(redis, "TTL", name) > 0) == name[-1].isdigit()


async def run_through(client: Client, done: list[int], count: int) -> None:
    """Enqueue so many tasks, and wait until all of them are done."""
    for first in range(done[0], done[0] + count, 500):
        last = first + 500
        tasks = [Task("t", n) for n in range(first, last)]
        await client.enqueue_many(tasks[::2])
        await client.enqueue_many(tasks[1::2], unique=60)
        await eventually(partial(reached, done, last), within=30)


def reached(done: list[int], count: int) -> bool:
    return done[0] == count


async def test_memory_of_an_idle_client_and_server_is_flat_over_ten_thousand_tasks(
    redis_url: str, redis: Redis
) -> None:
    without_debugging()
    done = [0]

    async def handle(task: ActiveTask) -> None:
        done[0] += 1

    async with Client(redis_url) as client, serving(redis_url, handle):
        await run_through(client, done, 2_000)
        before = await idle_memory(redis)
        await run_through(client, done, 10_000)
        after = await idle_memory(redis)
    assert after - before < SLACK


async def idle_memory(redis: Redis) -> int:
    """Blocks of memory in use once the server has nothing to do."""
    await eventually(settled(redis))
    gc.collect()
    return sys.getallocatedblocks()


async def test_no_asyncio_task_and_no_thread_outlives_the_shutdown(redis_url: str) -> None:
    ours = asyncio.all_tasks()
    async with (
        Client(redis_url) as client,
        serving(redis_url, shop(), retry_delay=lambda *_: 0, shutdown_timeout=0),
    ):
        await client.enqueue_many(orders())
        await client.enqueue_many([Task("overrun", timeout=600) for _ in range(5)])
    assert asyncio.all_tasks() == ours
    await eventually(lambda: not [name for name in thread_names() if "asynqpy" in name])


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
