"""One task in each state that a task can rest in, all of them put there by asynqpy."""

from __future__ import annotations

from asynqpy import Client, Task
from tests.interop.python_worker import python_worker

#: Seconds until the task in retry is due.
RETRY_DELAY = 1000

#: The states of the tasks, which are also their ids.
RESTING = ["pending", "scheduled", "retry", "archived", "completed", "aggregating"]


async def one_task_in_each_state(client: Client, redis_url: str) -> None:
    """Leave a task in each state of ``RESTING``, in the queue ``default``."""
    await client.enqueue(Task("fail:1", b"r"), task_id="retry", max_retry=7)
    await client.enqueue(Task("skip:1", b"a"), task_id="archived")
    await client.enqueue(Task("result:1", b"\x00c"), task_id="completed", retention=3600)
    async with python_worker(redis_url, retry_delay=lambda *_: RETRY_DELAY) as worker:
        await worker.event("error", id="retry")
        await worker.event("error", id="archived")
        await worker.event("end", id="completed")
    await client.enqueue(Task("ok:1", b"p"), task_id="pending", timeout=90, unique=60)
    await client.enqueue(Task("ok:1", b"s"), task_id="scheduled", process_in=500)
    await client.enqueue(Task("ok:1", b"g"), task_id="aggregating", group="g")
