"""What crashes leave behind in a queue, and how the doctor finds it and puts it right.

    pip install -e ".[embedded]"
    python -m examples.doctor

It breaks things, so it uses a Redis of its own, whatever ``REDIS_URL`` says. Three tasks are enqueued. Then raw Redis
commands do what has been reported from the field:

- one task is active, but its lease is gone: asynq never takes it again;
- of another only the id in ``pending`` is left, as when Redis evicts keys: whoever takes it finds no task;
- a unique lock says that a task is on its way which has long been deleted.

``examine`` tells all that and changes nothing. ``heal`` puts it right, and a server then runs what was stuck.
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, Doctor, EmbeddedServer, Server, Task


async def break_things(redis: Redis) -> None:
    """As a crash in the wrong moment would, or somebody with ``redis-cli``."""
    for words in (
        ["LMOVE", "asynq:{default}:pending", "asynq:{default}:active", "RIGHT", "LEFT"],
        ["HSET", "asynq:{default}:t:stuck", "state", "active"],
        ["DEL", "asynq:{default}:t:evicted"],
        ["SET", "asynq:{default}:unique:report:", "deleted"],
    ):
        await redis.execute_command(*words)  # type: ignore[no-untyped-call]


def show(done: int, total: int) -> None:
    """A line that rewrites itself, where somebody looks."""
    if sys.stdout.isatty():
        print(f"\r{done / max(total, 1):4.0%}", end="\r" if done == total else "", flush=True)


async def work(url: str) -> None:
    """Run what is pending, until the stuck task and the healthy one have had their turn."""
    finished = asyncio.Semaphore(0)

    async def handle(task: ActiveTask) -> None:
        print(f"ran {task.id}")
        finished.release()

    async with Server(url).running(handle):
        for _ in ("stuck", "healthy"):
            _ = await finished.acquire()


async def main(url: str) -> None:
    async with Client(url) as client, Redis.from_url(url) as redis:
        for task_id in ("stuck", "evicted", "healthy"):
            await client.enqueue(Task("report"), task_id=task_id)
        await break_things(redis)
    async with Doctor(url) as doctor:
        print(await doctor.examine(on_progress=show))
        print(await doctor.heal(on_progress=show))
        print(await doctor.examine(on_progress=show))
    await work(url)


if __name__ == "__main__":
    with EmbeddedServer() as embedded:
        asyncio.run(main(embedded.url))
