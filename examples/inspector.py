"""Look at a queue after a bad night, and clear it up.

    pip install -e ".[embedded]"
    python -m examples.inspector

Payments failed while the bank was away, and some reports can never work. What failed for the bank's sake is run again
with all of its retries; the reports are deleted; one payment gets the amount that it should have had.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter

from asynqpy import ActiveTask, Client, Inspector, Server, Task, TaskFilter

REDIS_URL = os.environ.get("REDIS_URL", "embedded://")

QUEUE = "payments"


async def bad_night(url: str) -> None:
    """Every task fails, and is archived at once: none has a retry."""
    failed = asyncio.Semaphore(0)

    async def handle(task: ActiveTask) -> None:
        failed.release()
        raise (
            ConnectionError("the bank does not answer") if task.type == "pay" else ZeroDivisionError
        )

    async with Client(url) as client, Server(url, queues={QUEUE: 1}).running(handle):
        tasks = [Task("pay", {"amount": n}, task_id=f"pay-{n}") for n in range(1, 6)]
        tasks += [Task("report", task_id=f"report-{n}") for n in range(3)]
        await client.enqueue_many(tasks, queue=QUEUE, max_retry=0)
        for _ in tasks:
            _ = await failed.acquire()


async def clear_up(inspector: Inspector) -> None:
    errors: Counter[tuple[str, str]] = Counter()
    async for task in inspector.iter_tasks(QUEUE, "archived"):
        errors[task.type, task.last_error] += 1
    for (type, error), count in errors.most_common():
        print(f"{count} x {type}: {error}")

    deleted = await inspector.delete_all_tasks(QUEUE, "archived", where=TaskFilter(type="report"))
    print(f"deleted {deleted} reports")

    await inspector.requeue_task(QUEUE, "pay-3", payload={"amount": 33})
    again = await inspector.run_all_tasks(QUEUE, "archived", where=TaskFilter(error="the bank"))
    print(f"run again: pay-3, with another amount, and {again} others")

    info = await inspector.get_queue_info(QUEUE)
    print(
        f"{QUEUE}: {info.pending} pending, {info.archived} archived, {info.failed} failures today"
    )
    for task in await inspector.list_tasks(QUEUE, "pending"):
        print(f"  {task.id} {task.payload.decode()}")


async def main(url: str) -> None:
    await bad_night(url)
    async with Inspector(url) as inspector:
        await clear_up(inspector)
        await inspector.delete_queue(QUEUE, force=True)


if __name__ == "__main__":
    logging.getLogger("asynqpy").setLevel(logging.ERROR)  # not every failure of the night
    asyncio.run(main(REDIS_URL))
