"""Calls functions of the user that are told something and have no say in what happens next."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger("asynqpy.server")


async def call(
    callback: Callable[..., Any],
    *args: object,
    what: str,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Call a ``def`` or ``async def``. A fault of its own is logged as one of ``what``, no more.

    ``sys.exit()`` is such a fault, and so is a ``CancelledError`` that nobody asked the running task for.
    """
    try:
        answer = callback(*args)
        if inspect.isawaitable(answer):
            await answer
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        logger.exception("%s failed", what, extra=extra)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
