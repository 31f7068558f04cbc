from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

from asynqpy.handler import HandlerThread, as_async, handler_name
from asynqpy.task import ActiveTask, current_task
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
    "handler", [handle, AsyncObject(), AsyncObject().method, partial(handle)], ids=handler_name
)
def test_async_handler_is_taken_as_it_is(handler: Any) -> None:
    assert as_async(handler) is handler


@pytest.mark.parametrize("handler", [None, 3, "handle", {}])
def test_handler_that_cannot_be_called_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match=f"callable, not {type(handler).__name__}$"):
        as_async(handler)


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


async def test_coroutine_that_nobody_awaits_is_an_error_that_says_so() -> None:
    def forgetful(task: ActiveTask) -> Any:
        return handle(task)

    with pytest.raises(TypeError, match="forgetful returned a coroutine: make it async def"):
        await as_async(forgetful)(a_task())


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


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (handle, "handle"),
        (AsyncObject().method, "AsyncObject.method"),
        (AsyncObject(), "AsyncObject"),
        (partial(handle), "partial"),
    ],
)
def test_handlers_have_names_for_the_log(handler: Any, name: str) -> None:
    assert handler_name(handler) == name
