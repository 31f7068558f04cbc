"""Tasks as a server holds them, made without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import Delivery, Lease
from asynqpy.server.runs import Run
from asynqpy.task import ActiveTask

NOW = 1_700_000_000.0


def a_message(**fields: Any) -> TaskMessage:
    defaults = {"type": "email:welcome", "id": "t1", "max_retry": 3, "timeout": 60}
    return TaskMessage(**{**defaults, **fields})


def a_task(message: TaskMessage | None = None) -> ActiveTask:
    return ActiveTask(message or a_message(), deadline=NOW + 60, write_result=_write_nowhere)


async def _write_nowhere(data: bytes) -> None:
    pass


def a_delivery(
    message: TaskMessage | None = None, *, stamp: int = 1, expires_at: float = NOW + 30
) -> Delivery:
    message = message or a_message()
    return Delivery(message, Lease(message.queue, message.id, stamp, expires_at))


def a_run(message: TaskMessage | None = None, *, stamp: int = 1, deadline: float = NOW + 60) -> Run:
    """A run whose job has yet to be set."""
    delivery = a_delivery(message, stamp=stamp)
    return Run(delivery, a_task(delivery.message), started_at=NOW, deadline=deadline)


def running(run: Run, work: Callable[[], Any]) -> Run:
    """The run with ``work()`` as its job, as far as the server is concerned begun."""
    run.job = asyncio.create_task(work())
    run.begun = True
    return run
