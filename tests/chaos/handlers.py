"""What the tasks of a scenario do. The payload is JSON; ``ms`` is how long.

``tests/interop/go/chaos.go`` is the same for Go's worker.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asynqpy import ActiveTask, ServeMux
from tests.chaos.journal import Journal


class OnPurposeError(Exception):
    """A failure that counts."""


def handlers(journal: Journal) -> ServeMux:
    mux = ServeMux()
    mux.use(_journaling(journal))
    mux.handle("sleep", sleep)
    mux.handle("block", block)
    mux.handle("fail", fail)
    mux.handle("result", result)
    mux.handle("poison", _poisoning(journal))
    return mux


def _journaling(journal: Journal) -> Callable[..., Awaitable[None]]:
    async def journaled(
        task: ActiveTask, call_next: Callable[[ActiveTask], Awaitable[Any]]
    ) -> None:
        journal.write("start", task.id, task.retried)
        try:
            await call_next(task)
        except asyncio.CancelledError:
            cause = (task.cancel_cause or "nobody").replace(" ", "-")
            journal.write("end", task.id, f"{task.retried} cancelled:{cause}")
            raise
        except BaseException:
            journal.write("end", task.id, f"{task.retried} failed")
            raise
        journal.write("end", task.id, f"{task.retried} ok")

    return journaled


async def sleep(task: ActiveTask) -> None:
    await asyncio.sleep(_seconds(task))


async def block(task: ActiveTask) -> None:
    """Holds the event loop, as no handler should."""
    time.sleep(_seconds(task))  # noqa: ASYNC251 - what this is about


async def fail(task: ActiveTask) -> None:
    """``fails`` attempts fail, the next succeeds."""
    await asyncio.sleep(_seconds(task))
    if task.retried < task.json()["fails"]:
        raise OnPurposeError(f"attempt {task.retried} fails")


async def result(task: ActiveTask) -> None:
    await asyncio.sleep(_seconds(task))
    await task.write_result(task.id)


def _poisoning(journal: Journal) -> Callable[[ActiveTask], Awaitable[None]]:
    async def poison(task: ActiveTask) -> None:
        """Takes its process down with it."""
        await asyncio.sleep(_seconds(task))
        journal.write("fault", extra="poison")
        os.kill(os.getpid(), signal.SIGKILL)

    return poison


def _seconds(task: ActiveTask) -> float:
    return float(task.json().get("ms", 0)) / 1000
