"""What processes a task: an ``async def``, or a plain ``def`` that is run in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias, cast

from asynqpy.task import ActiveTask

#: What a middleware calls next: takes the task, and is awaited.
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
    """One run of a plain handler in a thread of its own; the server's permits bound how many there are.

    A thread cannot be cancelled: when the task is, its caller goes on at once and the function runs to its end, which
    ``when_ended`` tells. It is a daemon, so that one that never ends cannot keep the process from ending.
    """

    def __init__(self, function: Callable[[ActiveTask], Any], task: ActiveTask) -> None:
        self._function = function
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[None] = self._loop.create_future()
        self._on_end: list[Callable[[], None]] = []
        self.ended = False

    async def run(self) -> None:
        """Run the function and wait for it; raises what it raises."""
        thread = threading.Thread(
            target=copy_context().run,
            args=(self._call,),
            name=f"asynqpy:task:{self._task.type}:{self._task.id}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self.ended = True
            raise
        await self._answer

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call back on the loop once the function has returned."""
        if self.ended:
            callback()
        else:
            self._on_end.append(callback)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """In the thread: have the loop await something, and wait for what comes of it."""

        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _call(self) -> None:
        error: BaseException | None = None
        try:
            result = self._function(self._task)
            if inspect.iscoroutine(result):
                result.close()
                name = handler_name(self._function)
                raise TypeError(f"{name} returned a coroutine: make it async def")
        except StopIteration as stop:
            # No future can carry it.
            error = RuntimeError("the handler raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:
            error = raised
        # The loop may be gone when a forgotten thread ends at last.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: BaseException | None) -> None:
        self.ended = True
        if not self._answer.done():
            if error is None:
                self._answer.set_result(None)
            else:
                self._answer.set_exception(error)
        for callback in self._on_end:
            callback()
