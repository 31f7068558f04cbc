from __future__ import annotations

import re
from typing import Any

import pytest

from asynqpy.errors import HandlerNotFoundError
from asynqpy.handler import AsyncHandler
from asynqpy.mux import Middleware, ServeMux
from asynqpy.task import ActiveTask
from tests.server.making import a_message, a_task


class Calls(list[str]):
    """What was called, in order, and handlers and middlewares that note it."""

    def handler(self, name: str) -> AsyncHandler:
        async def handle(task: ActiveTask) -> None:
            self.append(name)

        return handle

    def middleware(self, name: str) -> Middleware:
        async def middleware(task: ActiveTask, call_next: AsyncHandler) -> None:
            self.append(f"{name} in")
            try:
                await call_next(task)
            finally:
                self.append(f"{name} out")

        return middleware


@pytest.fixture
def calls() -> Calls:
    return Calls()


def task(task_type: str) -> ActiveTask:
    return a_task(a_message(type=task_type))


def mux_of(calls: Calls, *patterns: str) -> ServeMux:
    mux = ServeMux()
    for pattern in patterns:
        mux.handle(pattern, calls.handler(pattern))
    return mux


@pytest.mark.parametrize(
    ("task_type", "handler"),
    [
        ("email:welcome", "email:welcome"),
        ("email:welcome:vip", "email:welcome"),
        ("email:reminder", "email:"),
        ("emails", "email"),
        ("email", "email"),
        ("e", "e"),
    ],
)
async def test_longest_pattern_that_starts_the_type_handles_it(
    calls: Calls, task_type: str, handler: str
) -> None:
    await mux_of(calls, "e", "email", "email:welcome", "email:")(task(task_type))
    assert calls == [handler]


@pytest.mark.parametrize("task_type", ["image", "emai", "Email:welcome", " email"])
async def test_type_that_no_pattern_starts_is_not_found(calls: Calls, task_type: str) -> None:
    with pytest.raises(HandlerNotFoundError, match=f'^handler not found for task "{task_type}"$'):
        await mux_of(calls, "email")(task(task_type))


async def test_type_that_is_not_found_is_quoted_as_go_does() -> None:
    with pytest.raises(HandlerNotFoundError, match=re.escape(r'for task "a\"b\\c é\n"')):
        await ServeMux()(task('a"b\\c é\n'))


async def test_decorated_function_stays_as_it_is() -> None:
    mux = ServeMux()

    async def handle(task: ActiveTask) -> None:
        handled.append(task.type)

    handled: list[str] = []
    assert mux.handler("email")(handle) is handle
    await mux(task("email"))
    assert handled == ["email"]


async def test_plain_function_handles_in_a_thread() -> None:
    mux, handled = ServeMux(), []

    @mux.handler("email")
    def handle(task: ActiveTask) -> None:
        handled.append(task.type)

    running = task("email")
    await mux(running)
    assert handled == ["email"]
    assert running.thread is not None


async def test_mux_may_stand_inside_of_a_mux(calls: Calls) -> None:
    outer = ServeMux()
    outer.handle("email:", mux_of(calls, "email:welcome"))
    await outer(task("email:welcome"))
    assert calls == ["email:welcome"]


async def test_middleware_used_first_is_outermost(calls: Calls) -> None:
    mux = mux_of(calls, "email")
    mux.use(calls.middleware("a"), calls.middleware("b"))
    mux.use(calls.middleware("c"))
    await mux(task("email"))
    assert calls == ["a in", "b in", "c in", "email", "c out", "b out", "a out"]


async def test_middleware_also_sees_types_without_a_handler(calls: Calls) -> None:
    mux = ServeMux()
    mux.use(calls.middleware("a"))
    with pytest.raises(HandlerNotFoundError):
        await mux(task("email"))
    assert calls == ["a in", "a out"]


async def test_middleware_may_keep_a_task_from_its_handler(calls: Calls) -> None:
    mux = mux_of(calls, "email")

    async def refuse(task: ActiveTask, call_next: AsyncHandler) -> None:
        raise PermissionError(task.type)

    mux.use(refuse)
    with pytest.raises(PermissionError, match="email"):
        await mux(task("email"))
    assert calls == []


async def test_error_of_a_handler_goes_through_the_middlewares() -> None:
    mux, seen = ServeMux(), []

    @mux.handler("email")
    async def fail(task: ActiveTask) -> None:
        raise OSError("no route")

    async def note(task: ActiveTask, call_next: AsyncHandler) -> None:
        try:
            await call_next(task)
        except OSError as error:
            seen.append(str(error))
            raise

    mux.use(note)
    with pytest.raises(OSError, match="no route"):
        await mux(task("email"))
    assert seen == ["no route"]


async def test_middleware_used_while_the_mux_serves_counts_from_the_next_task_on(
    calls: Calls,
) -> None:
    mux = mux_of(calls, "email")
    await mux(task("email"))
    mux.use(calls.middleware("a"))
    await mux(task("email"))
    assert calls == ["email", "a in", "email", "a out"]


@pytest.mark.parametrize("pattern", ["", " "])
def test_blank_pattern_is_refused(calls: Calls, pattern: str) -> None:
    with pytest.raises(ValueError, match="the pattern of a handler must not be blank"):
        mux_of(calls, pattern)


def test_second_handler_of_a_pattern_is_refused(calls: Calls) -> None:
    with pytest.raises(ValueError, match="the pattern 'email' has a handler already"):
        mux_of(calls, "email", "email")


@pytest.mark.parametrize("handler", [None, "handle", 3])
def test_handler_that_cannot_be_called_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match="a handler must be callable, not"):
        ServeMux().handle("email", handler)


def test_decorator_without_its_pattern_is_refused(calls: Calls) -> None:
    decorator: Any = ServeMux().handler
    with pytest.raises(TypeError, match="the pattern of a handler must be a str, not function"):
        decorator(calls.handler("email"))


def test_refused_handler_leaves_the_mux_as_it_was(calls: Calls) -> None:
    mux, bad = mux_of(calls, "email"), None
    with pytest.raises(TypeError):
        mux.handle("image", bad)  # type: ignore[arg-type]
    assert repr(mux) == "<ServeMux ['email']>"


def plain_middleware(task: ActiveTask, call_next: Any) -> Any:
    return call_next(task)


async def middleware_of_one(task: ActiveTask) -> None: ...


@pytest.mark.parametrize(
    ("middleware", "text"),
    [
        (plain_middleware, "must be async def to be a middleware"),
        (middleware_of_one, r"a middleware is called with \(task, call_next\)"),
        ("logging", "a middleware must be callable, not str"),
    ],
)
def test_what_is_no_middleware_is_refused_when_it_is_used(middleware: Any, text: str) -> None:
    mux = ServeMux()
    with pytest.raises(TypeError, match=text):
        mux.use(middleware)
