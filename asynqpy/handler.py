"""What processes a task: an ``async def``, or a plain ``def`` that is run in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, cast

from anyio import CapacityLimiter, to_thread

from asynqpy.task import ActiveTask

AsyncHandler: TypeAlias = Callable[[ActiveTask], Awaitable[Any]]

#: What ``Server`` and ``ServeMux`` take: ``async def f(task)``, ``def f(task)``, or a ``ServeMux``.
Handler: TypeAlias = AsyncHandler | Callable[[ActiveTask], Any]


def as_async(handler: Handler) -> AsyncHandler:
    """The handler to await: itself, or one that runs the plain function in a thread."""
    if not callable(handler):
        raise TypeError(f"a handler must be callable, not {type(handler).__name__}")
    if _is_async(handler):
        return cast("AsyncHandler", handler)

    async def in_thread(task: ActiveTask) -> None:
        task.thread = HandlerThread(handler, task)
        await task.thread.run()

    return in_thread


def handler_name(handler: Any) -> str:
    """The name to log a handler by."""
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__


def _is_async(handler: Any) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004 - asking how it is called, not whether
    )


class HandlerThread:
    """One run of a plain handler in a worker thread.

    A thread cannot be cancelled: when the task is, its caller goes on at once and the function runs to its end. It can
    ask ``anyio.from_thread.check_cancelled()`` whether it still should. ``when_ended`` tells when it really has.
    """

    def __init__(self, function: Callable[[ActiveTask], Any], task: ActiveTask) -> None:
        self._function = function
        self._task = task
        self._loop = asyncio.get_running_loop()
        # Whoever takes it decides: the thread, that the function runs; its caller, that it never will.
        self._decided = threading.Lock()
        self._on_end: list[Callable[[], None]] = []
        self.ended = False

    async def run(self) -> None:
        """Run the function. The server's permits bound the threads, so they wait for no other limit."""
        try:
            await to_thread.run_sync(self._call, abandon_on_cancel=True, limiter=CapacityLimiter(1))
        finally:
            if self._decided.acquire(blocking=False):
                self._end()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call back on the loop once the function has returned."""
        if self.ended:
            callback()
        else:
            self._on_end.append(callback)

    def _call(self) -> None:
        if not self._decided.acquire(blocking=False):
            return
        try:
            result = self._function(self._task)
        finally:
            # The loop may be gone when a forgotten thread ends at last.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(
                f"{handler_name(self._function)} returned a coroutine: make it async def"
            )

    def _end(self) -> None:
        self.ended = True
        for callback in self._on_end:
            callback()
