"""Tells the user's error handler what failed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: ``def f(task, error)`` or ``async def f(task, error)``; what it returns is ignored.
ErrorHandler: TypeAlias = Callable[[ActiveTask, BaseException], Any]


class ErrorReport:
    """Calls the error handler for each failed attempt and each lost lease. A fault of its own is logged, no more."""

    def __init__(self, error_handler: ErrorHandler | None) -> None:
        self._error_handler = error_handler

    async def send(self, task: ActiveTask, error: BaseException) -> None:
        if self._error_handler is None:
            return
        try:
            answer = self._error_handler(task, error)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            logger.exception("the error handler failed for %r", task, extra={"task_id": task.id})
