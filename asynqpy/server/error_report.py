"""Tells the user's error handler what failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from asynqpy.server.callbacks import call
from asynqpy.server.service import cancel_until_done
from asynqpy.task import ActiveTask

#: ``def f(task, error)`` or ``async def f(task, error)``; what it returns is ignored.
ErrorHandler: TypeAlias = Callable[[ActiveTask, BaseException], Any]


class ErrorReport:
    """Calls the error handler for each failed attempt and each lost lease. A fault of its own is logged, no more."""

    def __init__(self, error_handler: ErrorHandler | None) -> None:
        self._error_handler = error_handler

    async def send(self, task: ActiveTask, error: BaseException) -> None:
        if self._error_handler is not None:
            what, ids = f"the error handler for {task!r}", {"task_id": task.id}
            await call(self._error_handler, task, error, what=what, extra=ids)


#: Seconds that error handlers get to end when the server stops.
_LAST_WORDS = 0.5


class LaterReports:
    """Reports that a service need not wait for: a slow error handler must not hold up its work."""

    def __init__(self, report: ErrorReport) -> None:
        self._report = report
        self._under_way: set[asyncio.Task[None]] = set()

    def send(self, failures: Sequence[tuple[ActiveTask, BaseException]]) -> None:
        """Tell of these, one after the other."""
        if failures:
            sending = asyncio.create_task(self._send_all(failures), name="asynqpy:report")
            self._under_way.add(sending)
            sending.add_done_callback(self._under_way.discard)

    async def _send_all(self, failures: Sequence[tuple[ActiveTask, BaseException]]) -> None:
        for task, error in failures:
            await self._report.send(task, error)

    async def wait(self) -> None:
        """Give error handlers a moment to end."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_LAST_WORDS)

    async def cancel(self) -> None:
        """Return when none is under way any more."""
        for sending in list(self._under_way):
            await cancel_until_done(sending)
