"""Tells the user's error handler what failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from asynqpy.server.callbacks import call
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
