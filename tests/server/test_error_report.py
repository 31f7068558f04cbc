from __future__ import annotations

import asyncio

import pytest

from asynqpy.server.error_report import ErrorReport, LaterReports
from asynqpy.task import ActiveTask
from tests.server.making import a_message, a_task


class Told(list[tuple[str, str]]):
    """What an error handler was told: task ids and errors."""

    def __call__(self, task: ActiveTask, error: BaseException) -> None:
        self.append((task.id, repr(error)))


async def test_plain_error_handler_is_told() -> None:
    told = Told()
    await ErrorReport(told).send(a_task(), ValueError("no"))
    assert told == [("t1", "ValueError('no')")]


async def test_async_error_handler_is_awaited() -> None:
    told = Told()

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        await asyncio.sleep(0)
        told(task, error)

    await ErrorReport(error_handler).send(a_task(), ValueError("no"))
    assert told == [("t1", "ValueError('no')")]


async def test_no_error_handler_is_fine() -> None:
    await ErrorReport(None).send(a_task(), ValueError("no"))


@pytest.mark.parametrize("is_async", [False, True])
async def test_failing_error_handler_is_logged_and_no_more(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(task: ActiveTask, error: BaseException) -> None:
        raise LookupError("a fault of its own")

    async def fails_async(task: ActiveTask, error: BaseException) -> None:
        fails(task, error)

    await ErrorReport(fails_async if is_async else fails).send(a_task(), ValueError("no"))
    (record,) = caplog.records
    assert record.getMessage() == f"the error handler for {a_task()!r} failed"
    assert record.__dict__["task_id"] == "t1"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


# Reports that nobody waits for.


async def test_later_reports_go_out_one_after_the_other() -> None:
    told = Told()
    reports = LaterReports(ErrorReport(told))
    tasks = [a_task(a_message(id=task_id)) for task_id in "ab"]
    reports.send([(task, ValueError(task.id)) for task in tasks])
    assert told == []
    await reports.wait()
    assert told == [("a", "ValueError('a')"), ("b", "ValueError('b')")]


async def test_error_handler_that_hangs_is_cancelled_when_its_moment_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asynqpy.server.error_report._LAST_WORDS", 0.01)
    cancelled = []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(task.id)

    reports = LaterReports(ErrorReport(error_handler))
    reports.send([(a_task(), ValueError("no"))])
    reports.send([])
    await reports.wait()
    assert cancelled == []
    await reports.cancel()
    await reports.cancel()
    assert cancelled == ["t1"]
