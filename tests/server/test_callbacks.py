from __future__ import annotations

import asyncio
import sys

import pytest

from asynqpy.server.callbacks import call
from tests.eventually import eventually

FAULTS = [LookupError("a fault of its own"), SystemExit(3), asyncio.CancelledError("mine")]


async def test_plain_callback_is_called_with_the_arguments() -> None:
    told: list[object] = []
    await call(lambda *args: told.extend(args), 1, "two", what="the callback")
    assert told == [1, "two"]


async def test_async_callback_is_awaited() -> None:
    told: list[object] = []

    async def callback(*args: object) -> None:
        await asyncio.sleep(0)
        told.extend(args)

    await call(callback, 1, "two", what="the callback")
    assert told == [1, "two"]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
async def test_fault_of_a_callback_is_logged_and_no_more(
    is_async: bool, fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise fault

    async def fails_async() -> None:
        fails()

    await call(fails_async if is_async else fails, what="the callback", extra={"task_id": "t1"})
    (record,) = caplog.records
    assert record.getMessage() == "the callback failed"
    assert record.__dict__["task_id"] == "t1"
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


async def test_program_that_is_interrupted_ends() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await call(interrupted, what="the callback")


async def test_cancel_of_the_caller_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def waits() -> None:
        begun.set()
        await asyncio.Event().wait()

    job = asyncio.create_task(call(waits, what="the callback"))
    await eventually(begun.is_set)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert caplog.records == []


async def test_exit_of_a_callback_is_not_that_of_the_program() -> None:
    await call(sys.exit, "done", what="the callback")
