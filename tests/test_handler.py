from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from asynqpy.handler import HandlerThread, as_async
from asynqpy.task import ActiveTask, CancelCause, current_task
from asynqpy.task import running_task as running
from tests.eventually import eventually
from tests.server.making import a_task


class Blocking:
    """A plain handler that holds its thread until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, task: ActiveTask) -> None:
        self.has_begun.set()
        assert self.may_end.wait(10)


class AsyncObject:
    async def __call__(self, task: ActiveTask) -> None:
        await task.write_result(b"done")

    async def method(self, task: ActiveTask) -> None:
        await task.write_result(b"done")


async def handle(task: ActiveTask) -> None:
    await task.write_result(b"done")


@pytest.mark.parametrize(
    "handler",
    [handle, AsyncObject(), AsyncObject().method, partial(handle)],
    ids=["function", "object", "method", "partial"],
)
def test_async_handler_is_taken_as_it_is(handler: Any) -> None:
    assert as_async(handler) is handler


@pytest.mark.parametrize("handler", [None, 3, "handle", {}])
def test_handler_that_cannot_be_called_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match=f"callable, not {type(handler).__name__}$"):
        as_async(handler)


def generates(task: ActiveTask) -> Any:
    yield task


async def generates_later(task: ActiveTask) -> Any:
    yield task


def takes_nothing() -> None: ...


def takes_two(task: ActiveTask, more: int) -> None: ...


def wants_a_keyword(task: ActiveTask, *, more: int) -> None: ...


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (generates, "is a generator: calling it would run nothing of it"),
        (generates_later, "is a generator"),
        (takes_nothing, "too many positional arguments"),
        (takes_two, "missing a required argument: 'more'"),
        (wants_a_keyword, "missing a required argument: 'more'"),
        (AsyncObject, "a handler must be callable, not a class"),
        (AsyncObject.method, "missing a required argument: 'task'"),
    ],
    ids=["generator", "async generator", "none", "two", "keyword", "class", "unbound method"],
)
def test_handler_that_could_never_process_a_task_is_refused(handler: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        as_async(handler)


def test_callable_that_tells_no_signature_is_taken() -> None:
    built_in: Any = max
    assert callable(as_async(built_in))


async def test_plain_handler_runs_in_another_thread() -> None:
    threads: list[threading.Thread] = []
    await as_async(lambda task: threads.append(threading.current_thread()))(a_task())
    assert threads[0] is not threading.current_thread()


async def test_plain_handler_sees_its_task_as_the_current_one() -> None:
    seen: list[ActiveTask] = []
    task = a_task()
    running.set(task)
    await as_async(lambda _: seen.append(current_task()))(task)
    assert seen == [task]


async def test_plain_handler_may_have_the_loop_await_something() -> None:
    lengths: list[int] = []

    def handler(task: ActiveTask) -> None:
        lengths.append(task.wait_for(task.write_result(b"done")))

    await as_async(handler)(a_task())
    assert lengths == [4]


async def test_error_of_a_plain_handler_is_that_of_the_task() -> None:
    def fail(task: ActiveTask) -> None:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        await as_async(fail)(a_task())


async def test_plain_handlers_do_not_wait_for_one_another() -> None:
    barrier = threading.Barrier(50)
    handler = as_async(lambda task: barrier.wait(10))
    await asyncio.gather(*(handler(a_task()) for _ in range(50)))


def traced(function: Callable[[ActiveTask], Any]) -> Callable[[ActiveTask], Any]:
    """A decorator that knows nothing of async functions; it does its part in the thread."""

    @wraps(function)
    def wrapper(task: ActiveTask) -> Any:
        threads.append(threading.current_thread())
        return function(task)

    threads: list[threading.Thread] = []
    wrapper.threads = threads  # type: ignore[attr-defined]
    return wrapper


async def test_async_function_under_a_plain_decorator_runs_on_the_loop() -> None:
    seen: list[Any] = []
    task = a_task()
    running.set(task)

    @traced
    async def handler(task: ActiveTask) -> None:
        await asyncio.sleep(0)
        seen.extend([current_task(), threading.current_thread()])

    await as_async(handler)(task)
    assert seen == [task, threading.current_thread()]
    assert handler.threads != [threading.current_thread()]  # type: ignore[attr-defined]
    assert task.thread is not None
    assert task.thread.ended


async def test_error_of_an_async_function_under_a_plain_decorator_is_that_of_the_task() -> None:
    @traced
    async def fail(task: ActiveTask) -> None:
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"):
        await as_async(fail)(a_task())


async def test_cancel_reaches_an_async_function_under_a_plain_decorator() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @traced
    async def handler(task: ActiveTask) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    job = asyncio.ensure_future(as_async(handler)(a_task()))
    await begun.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert cancelled.is_set()


async def test_coroutine_that_comes_after_the_cancel_is_closed() -> None:
    """One that nobody closes is a warning, which is an error here."""
    blocking, task, coroutines = Blocking(), a_task(), []

    def handler(task: ActiveTask) -> Any:
        blocking(task)
        coroutines.append(handle(task))
        return coroutines[0]

    job = asyncio.ensure_future(as_async(handler)(task))
    await eventually(blocking.has_begun.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    blocking.may_end.set()
    assert task.thread is not None
    await eventually(lambda: task.thread is not None and task.thread.ended)
    assert [inspect.getcoroutinestate(one) for one in coroutines] == ["CORO_CLOSED"]


async def test_coroutine_that_comes_with_the_cancel_is_closed() -> None:
    coroutine = handle(a_task())
    job: asyncio.Task[Any]

    def handler(task: ActiveTask) -> Any:
        assert task.thread is not None
        task.thread.when_ended(cancel)
        return coroutine

    def cancel() -> None:
        job.cancel()

    job = asyncio.ensure_future(as_async(handler)(a_task()))
    with pytest.raises(asyncio.CancelledError):
        await job
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


# ── waiting for the loop ────────────────────────────────────────────────────────────────────


class Awaited:
    """Something that is awaited until it is cancelled."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self) -> None:
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self.error = error
            raise


async def test_cancelled_task_cancels_what_its_thread_waits_for() -> None:
    awaited, task, before = Awaited(), a_task(), asyncio.all_tasks()
    raised: list[BaseException] = []

    def handler(task: ActiveTask) -> None:
        try:
            task.wait_for(awaited())
        except asyncio.CancelledError as error:
            raised.append(error)
            raise

    job = asyncio.ensure_future(as_async(handler)(task))
    await awaited.has_begun.wait()
    task.cancel_cause = CancelCause.DEADLINE
    job.cancel(CancelCause.DEADLINE)
    with pytest.raises(asyncio.CancelledError):
        await job
    assert awaited.error is not None
    assert awaited.error.args == (CancelCause.DEADLINE,)
    assert asyncio.all_tasks() == before
    await eventually(lambda: task.thread is not None and task.thread.ended)
    assert [error.args for error in raised] == [(CancelCause.DEADLINE,)]


async def test_second_cancel_reaches_what_has_swallowed_the_first() -> None:
    cancels: list[str] = []
    begun = asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while len(cancels) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels.append("cancelled")

    before = asyncio.all_tasks()
    job = asyncio.ensure_future(as_async(lambda task: task.wait_for(stubborn()))(a_task()))
    await begun.wait()
    job.cancel()
    await eventually(lambda: len(cancels) == 1)
    assert not job.done()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert asyncio.all_tasks() == before


async def test_thread_of_a_cancelled_task_waits_for_nothing_more() -> None:
    blocking, task = Blocking(), a_task()
    coroutine, raised = handle(task), []

    def handler(task: ActiveTask) -> None:
        blocking(task)
        try:
            task.wait_for(coroutine)
        except asyncio.CancelledError as error:
            raised.append(error.args)

    job = asyncio.ensure_future(as_async(handler)(task))
    await eventually(blocking.has_begun.is_set)
    task.cancel_cause = CancelCause.REQUESTED
    job.cancel(CancelCause.REQUESTED)
    with pytest.raises(asyncio.CancelledError):
        await job
    blocking.may_end.set()
    await eventually(lambda: raised == [(CancelCause.REQUESTED,)])
    assert inspect.getcoroutinestate(coroutine) == "CORO_CLOSED"


async def test_awaited_thing_that_cancels_itself_raises_the_same_in_the_thread() -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await as_async(lambda task: task.wait_for(gives_up()))(a_task())


async def test_exit_of_an_awaited_thing_is_one_in_the_thread_and_not_of_the_loop() -> None:
    async def leaves() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await as_async(lambda task: task.wait_for(leaves()))(a_task())


async def test_waiting_on_the_loop_for_the_loop_is_refused_rather_than_dead() -> None:
    @traced
    async def handler(task: ActiveTask) -> None:
        task.wait_for(task.write_result(b"done"))

    with pytest.raises(RuntimeError, match=r"would block the event loop .* await"):
        await as_async(handler)(a_task())


# ── ends ────────────────────────────────────────────────────────────────────────────────────


async def test_cancelled_caller_goes_on_while_the_thread_ends_later() -> None:
    blocking, ended = Blocking(), asyncio.Event()
    task = a_task()
    job = asyncio.ensure_future(as_async(blocking)(task))
    await eventually(blocking.has_begun.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert task.thread is not None
    assert not task.thread.ended
    task.thread.when_ended(ended.set)
    assert not ended.is_set()
    blocking.may_end.set()
    await asyncio.wait_for(ended.wait(), 5)
    assert task.thread.ended


async def test_stop_iteration_of_a_plain_handler_is_a_failure_like_others() -> None:
    with pytest.raises(RuntimeError, match="the handler raised StopIteration"):
        await as_async(lambda task: next(iter([])))(a_task())


async def test_thread_that_cannot_be_started_counts_as_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread = HandlerThread(lambda task: None, a_task())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await thread.run()
    assert thread.ended


async def test_thread_that_has_ended_calls_back_at_once() -> None:
    thread, called = HandlerThread(lambda task: None, a_task()), []
    await thread.run()
    await eventually(lambda: thread.ended)
    thread.when_ended(lambda: called.append(1))
    assert called == [1]
