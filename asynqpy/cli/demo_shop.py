"""The story that the demo tells: a shop takes orders, and a worker does what orders bring with them.

- ``payment:charge`` (critical): the bank times out now and then, so it is retried; a declined card is not.
- ``email:welcome`` (default): just works.
- ``email:reminder`` (default): scheduled for later.
- ``image:thumbnail`` (default): comes as a crowd, behind which payments do not wait.
- ``report:build`` (default): never works, and is archived when its attempts are used up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Unpack

from asynqpy.cli.demo_record import Record
from asynqpy.client import Client
from asynqpy.errors import AsynqError, SkipRetry
from asynqpy.mux import ServeMux
from asynqpy.options import TaskOptions
from asynqpy.server.server import Server
from asynqpy.task import ActiveTask, Task, TaskInfo

#: Queues and their priorities.
QUEUES = {"critical": 6, "default": 2}

CONCURRENCY = 4

#: Orders that come in, and seconds between them.
_ORDERS = 19
_ORDER_INTERVAL = 0.5

#: The order that brings a crowd of thumbnails, and how many.
_CROWDED_ORDER = 6
_CROWD = 28

#: Seconds for the last tasks to end after the last order.
_PATIENCE = 15.0


class BankTimeout(Exception):
    """The bank did not answer: worth another attempt."""


async def run_shop(redis: str, record: Record, *, pace: float = 1.0) -> None:
    """Run a worker and a producer until every task has ended, or patience has.

    ``redis`` is a URL. At ``pace`` 1 it takes about a quarter of a minute, at 0.1 a tenth of that.
    """
    server = Server(
        redis,
        queues=QUEUES,
        concurrency=CONCURRENCY,
        retry_delay=lambda retried, error, task: _retry_delay(record, task, pace),
        error_handler=record.failed,
        task_check_interval=0.1,
        delayed_task_check_interval=0.25,
        shutdown_timeout=1,
    )
    async with Client(redis) as client, server.running(_mux(record, pace)):
        for number in range(1, _ORDERS + 1):
            record.enqueued(await _enqueue(client, list(_tasks_of_order(number, pace))))
            await asyncio.sleep(_ORDER_INTERVAL * pace)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await record.wait_until_all_ended()


async def _enqueue(client: Client, tasks: list[Task]) -> list[TaskInfo]:
    """Enqueue in one round trip; raises what one of them was refused for."""
    infos = []
    for outcome in await client.enqueue_many(tasks, retention=timedelta(hours=1)):
        if isinstance(outcome, AsynqError):
            raise outcome
        infos.append(outcome)
    return infos


def _tasks_of_order(number: int, pace: float) -> Iterator[Task]:
    yield _task("payment:charge", number, queue="critical", max_retry=5)
    if number % 2:
        yield _task("email:welcome", number)
    if number % 4 == 1:
        yield _task("email:reminder", number, process_in=timedelta(seconds=4 * pace))
    if number in {3, 9}:
        yield _task("report:build", number, max_retry=2)
    if number == _CROWDED_ORDER:
        for n in range(1, _CROWD + 1):
            yield _task("image:thumbnail", n)


def _task(type: str, number: int, **options: Unpack[TaskOptions]) -> Task:
    options["task_id"] = f"{type}/{number}"
    return Task(type, {"number": number}, **options)


def _mux(record: Record, pace: float) -> ServeMux:
    mux = ServeMux()
    mux.use(record.watch)

    @mux.handler("payment:charge")
    async def charge(task: ActiveTask) -> None:
        number = task.json()["number"]
        await asyncio.sleep(0.3 * pace)
        if number % 8 == 5:
            raise SkipRetry("card declined")
        if task.retried < _bank_timeouts(number):
            raise BankTimeout("bank timeout")
        await task.write_result({"receipt": f"R-{number:04}"})

    @mux.handler("email:")
    async def send_email(task: ActiveTask) -> None:
        await asyncio.sleep(0.25 * pace)

    @mux.handler("image:thumbnail")
    async def make_thumbnail(task: ActiveTask) -> None:
        await asyncio.sleep(0.4 * pace)

    @mux.handler("report:build")
    async def build_report(task: ActiveTask) -> None:
        await asyncio.sleep(0.2 * pace)
        raise LookupError("no such table")

    return mux


def _bank_timeouts(number: int) -> int:
    """How often the payment fails before it succeeds."""
    return {0: 1, 2: 2}.get(number % 6, 0)


def _retry_delay(record: Record, task: ActiveTask, pace: float) -> float:
    delay = pace * (2 + task.retried)
    record.retried(task, delay)
    return delay
