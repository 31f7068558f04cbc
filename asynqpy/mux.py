"""The ServeMux: finds the handler of a task by its type."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from asynqpy.errors import HandlerNotFoundError
from asynqpy.handler import AsyncHandler, Handler, as_async, check_arity, is_async
from asynqpy.options import check_text
from asynqpy.task import ActiveTask

H = TypeVar("H", bound=Handler)

#: ``async def middleware(task, call_next)``: does its part and awaits ``call_next(task)``.
Middleware: TypeAlias = Callable[[ActiveTask, AsyncHandler], Awaitable[Any]]


class ServeMux:
    """Dispatches tasks by type: to the handler of exactly this type, else to that of the longest pattern that the type
    starts with.

        mux = ServeMux()

        @mux.handler("email:welcome")
        async def send_welcome(task: ActiveTask) -> None: ...

    A type that nothing matches fails with ``HandlerNotFoundError`` and is retried: the server that knows it may be on
    its way.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, AsyncHandler] = {}
        self._longest_first: list[str] = []
        self._middlewares: list[Middleware] = []

    def __repr__(self) -> str:
        return f"<ServeMux {sorted(self._handlers)}>"

    def handle(self, pattern: str, handler: Handler) -> None:
        """Register a handler. Raises ``ValueError`` for a blank pattern or one that is registered already."""
        check_text("the pattern of a handler", pattern)
        if pattern in self._handlers:
            raise ValueError(f"the pattern {pattern!r} has a handler already")
        self._handlers[pattern] = as_async(handler)
        self._longest_first = sorted(self._handlers, key=len, reverse=True)

    def handler(self, pattern: str) -> Callable[[H], H]:
        """Register the decorated function, which stays as it is."""
        check_text("the pattern of a handler", pattern)  # also catches a bare @mux.handler

        def register(function: H) -> H:
            self.handle(pattern, function)
            return function

        return register

    def use(self, *middlewares: Middleware) -> None:
        """Wrap every handling, also that of types without a handler; what is used first is outermost.

        Raises ``TypeError`` for what is no ``async def middleware(task, call_next)``.
        """
        for middleware in middlewares:
            check_arity("a middleware", middleware, "task", "call_next")
            if not is_async(middleware):
                raise TypeError(f"{middleware!r} must be async def to be a middleware")
        self._middlewares += middlewares

    async def __call__(self, task: ActiveTask) -> None:
        """Process a task; raises what its handler or a middleware raises."""
        handle: AsyncHandler = self._find(task.type) or _not_found
        for middleware in reversed(self._middlewares):
            handle = _wrap(middleware, handle)
        await handle(task)

    def _find(self, task_type: str) -> AsyncHandler | None:
        handler = self._handlers.get(task_type)
        if handler is not None:
            return handler
        for pattern in self._longest_first:
            if task_type.startswith(pattern):
                return self._handlers[pattern]
        return None


def _wrap(middleware: Middleware, call_next: AsyncHandler) -> AsyncHandler:
    async def wrapped(task: ActiveTask) -> None:
        await middleware(task, call_next)

    return wrapped


async def _not_found(task: ActiveTask) -> None:
    # In the quotes of Go's text.
    quoted = json.dumps(task.type, ensure_ascii=False)
    raise HandlerNotFoundError(f"handler not found for task {quoted}")
