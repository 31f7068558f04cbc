"""What processes a task: an ``async def``, or a plain ``def`` that is run in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias, cast

from asynqpy.task import ActiveTask

#: What a middleware calls next: takes the task, and is awaited.
AsyncHandler: TypeAlias = Callable[[ActiveTask], Awaitable[Any]]

#: What ``Server`` and ``ServeMux`` take: ``async def f(task)``, ``def f(task)``, or a ``ServeMux``.
Handler: TypeAlias = AsyncHandler | Callable[[ActiveTask], Any]

_Coroutine: TypeAlias = Coroutine[Any, Any, Any]


def as_async(handler: Handler) -> AsyncHandler:
    """The handler to await: itself, or one that runs the plain function in a thread.

    Raises ``TypeError`` for what could never process a task: each would fail, be retried, and fail again.
    """
    if not callable(handler) or inspect.isclass(handler):
        kind = "a class" if inspect.isclass(handler) else type(handler).__name__
        raise TypeError(f"a handler must be callable, not {kind}")
    if _is(handler, inspect.isgeneratorfunction) or _is(handler, inspect.isasyncgenfunction):
        raise TypeError(f"{handler!r} is a generator: calling it would run nothing of it")
    check_arity("a handler", handler, "task")
    if is_async(handler):
        return cast("AsyncHandler", handler)

    async def in_thread(task: ActiveTask) -> None:
        task.thread = HandlerThread(handler, task)
        await task.thread.run()

    return in_thread


def check_arity(what: str, function: Callable[..., Any], *arguments: str) -> None:
    """Raise ``TypeError`` unless ``function`` can be called with so many positional arguments."""
    if not callable(function):
        raise TypeError(f"{what} must be callable, not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions do not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        wanted = ", ".join(arguments)
        raise TypeError(f"{what} is called with ({wanted}), but {function!r}: {error}") from None


def is_async(function: Any) -> bool:
    """Whether calling it gives something to await."""
    return _is(function, inspect.iscoroutinefunction)


def _is(function: Any, kind: Callable[[Any], bool]) -> bool:
    """Whether the function, or what is called when an object is, is of this kind."""
    return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004 - how, not whether


class HandlerThread:
    """One run of a plain handler in a thread of its own; the server's permits bound how many there are.

    A thread cannot be cancelled: when the task is, its caller goes on and the function runs to its end, which
    ``when_ended`` tells. What the thread waits for on the loop is cancelled too, and has ended before the caller goes
    on. A coroutine that the function returns is awaited on the loop. The thread is a daemon, so that one that never
    ends cannot keep the process from ending.
    """

    def __init__(self, function: Callable[[ActiveTask], Any], task: ActiveTask) -> None:
        self._function = function
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answer: asyncio.Future[_Coroutine | None] = self._loop.create_future()
        self._coroutine: _Coroutine | None = None
        self._waits: set[asyncio.Task[Any]] = set()
        self._is_over = False
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
        try:
            coroutine = await self._answer
            if coroutine is not None:
                await coroutine
        finally:
            if self._coroutine is not None:
                self._coroutine.close()  # where a cancel came before its start
            await self._end_waits()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call back on the loop once the function has returned."""
        if self.ended:
            callback()
        else:
            self._on_end.append(callback)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """In the thread: have the loop await something, and wait for what comes of it.

        Raises ``asyncio.CancelledError`` when the task was cancelled or is over.
        """
        if threading.get_ident() == self._loop_thread:
            close_coroutine(awaitable)
            raise RuntimeError("wait_for would block the event loop it waits for; await instead")
        if self._is_over or self._loop.is_closed():
            close_coroutine(awaitable)
            raise self._cancelled()
        answer = asyncio.run_coroutine_threadsafe(self._wait(awaitable), self._loop)
        try:
            result, stop = answer.result()
        except concurrent.futures.CancelledError:
            raise self._cancelled() from None
        if stop is not None:
            raise stop
        return result

    async def _wait(self, awaitable: Awaitable[Any]) -> tuple[Any, SystemExit | None]:
        if self._is_over:  # by now
            close_coroutine(awaitable)
            raise self._cancelled()
        wait = asyncio.current_task()
        assert wait is not None
        self._waits.add(wait)
        try:
            return await awaitable, None
        except SystemExit as stop:  # raised in a task of its own, it would end the loop
            return None, stop
        finally:
            self._waits.discard(wait)

    async def _end_waits(self) -> None:
        """Cancel what is still awaited for the thread, and let it end: it does not outlive the task."""
        self._is_over = True
        while self._waits:
            for wait in self._waits:
                wait.cancel(self._task.cancel_cause)
            with suppress(asyncio.CancelledError):  # cancelled again; so are they
                await asyncio.wait(self._waits)

    def _cancelled(self) -> asyncio.CancelledError:
        cause = self._task.cancel_cause
        return asyncio.CancelledError() if cause is None else asyncio.CancelledError(cause)

    def _call(self) -> None:
        coroutine: _Coroutine | None = None
        error: BaseException | None = None
        try:
            result = self._function(self._task)
            coroutine = result if inspect.iscoroutine(result) else None
        except StopIteration as stop:
            # No future can carry it.
            error = RuntimeError("the handler raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:
            error = raised
        try:
            self._loop.call_soon_threadsafe(self._end, coroutine, error)
        except RuntimeError:  # the loop is gone when a forgotten thread ends at last
            close_coroutine(coroutine)

    def _end(self, coroutine: _Coroutine | None, error: BaseException | None) -> None:
        self.ended = True
        if self._answer.done():
            close_coroutine(coroutine)
        elif error is not None:
            self._answer.set_exception(error)
        else:
            self._coroutine = coroutine
            self._answer.set_result(coroutine)
        for callback in self._on_end:
            callback()


def close_coroutine(awaitable: object) -> None:
    """Spare a coroutine that nobody will await its warning."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()
