from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any

import pytest

from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry
from asynqpy.errors import RevokeTask, SkipRetry
from asynqpy.handler import Handler, as_async
from asynqpy.server.error_report import ErrorHandler, ErrorReport
from asynqpy.server.executor import Executor
from asynqpy.server.runs import Run
from asynqpy.server.verdict import FailurePolicy
from asynqpy.task import ActiveTask, CancelCause, current_task
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.server.making import NOW, a_message, a_run

POLICY = FailurePolicy(retry_delay=lambda retried, error, task: 10.0)


def retried(text: str) -> Outcome:
    return Retry(NOW + 10, text)


class Attempt:
    """One run of a handler by an executor, and what its error handler was told."""

    def __init__(
        self,
        handler: Handler,
        *,
        run: Run | None = None,
        error_handler: ErrorHandler | None = None,
    ) -> None:
        self.told: list[str] = []
        self.run = run or a_run()
        report = ErrorReport(error_handler or (lambda task, error: self.told.append(repr(error))))
        executor = Executor(
            handler=as_async(handler), policy=POLICY, report=report, clock=FakeClock(NOW)
        )
        self.job = asyncio.create_task(self._execute(executor))
        self.run.job = self.job

    async def _execute(self, executor: Executor) -> None:
        self.answer = await executor.execute(self.run)

    async def outcome(self) -> Outcome | None:
        await self.job
        return self.answer

    async def cancelled(self, cause: CancelCause) -> Outcome | None:
        """The outcome when the handler is cancelled once it waits."""
        await asyncio.sleep(0)
        self.run.cancel(cause)
        return await self.outcome()


async def returns(task: ActiveTask) -> str:
    return "is ignored"


async def waits(task: ActiveTask) -> None:
    await asyncio.Event().wait()


def raising(error: BaseException) -> Handler:
    async def raises(task: ActiveTask) -> None:
        raise error

    return raises


@pytest.mark.parametrize(("retention", "outcome"), [(0, Done()), (60, Complete())])
async def test_handler_that_returns_succeeds(retention: int, outcome: Outcome) -> None:
    attempt = Attempt(returns, run=a_run(a_message(retention=retention)))
    assert await attempt.outcome() == outcome
    assert attempt.run.ended
    assert attempt.told == []


async def test_handler_that_raises_fails_and_the_error_handler_is_told() -> None:
    attempt = Attempt(raising(ValueError("no")))
    assert await attempt.outcome() == retried("ValueError: no")
    assert attempt.told == ["ValueError('no')"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SkipRetry("bad"), Archive("bad")),
        (RevokeTask("moot"), Done()),
        (SystemExit(3), retried("SystemExit: 3")),
        (
            BaseExceptionGroup("two", [SystemExit(1)]),
            retried("BaseExceptionGroup: two (1 sub-exception)"),
        ),
        (
            pytest.fail.Exception("a BaseException of a library"),
            retried("Failed: a BaseException of a library"),
        ),
    ],
)
async def test_whatever_a_handler_raises_is_a_failure_of_its_task(
    error: BaseException, outcome: Outcome
) -> None:
    attempt = Attempt(raising(error))
    assert await attempt.outcome() == outcome
    assert attempt.told == [repr(error)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_sys_exit_in_a_handler_fails_its_task_and_not_the_server(is_async: bool) -> None:
    def exits(task: ActiveTask) -> None:
        sys.exit("enough")

    async def exits_async(task: ActiveTask) -> None:
        exits(task)

    attempt = Attempt(exits_async if is_async else exits)
    assert await attempt.outcome() == retried("SystemExit: enough")


async def test_cancelled_error_that_the_handler_raises_itself_is_a_failure() -> None:
    attempt = Attempt(raising(asyncio.CancelledError()))
    expected = "the handler raised CancelledError of its own accord"
    assert await attempt.outcome() == retried(expected)
    assert attempt.run.task.cancel_cause is None


async def test_cancelled_error_of_something_the_handler_awaits_is_a_failure() -> None:
    async def awaits_cancelled(task: ActiveTask) -> None:
        inner = asyncio.create_task(waits(task))
        inner.cancel()
        await inner

    expected = "the handler raised CancelledError of its own accord"
    assert await Attempt(awaits_cancelled).outcome() == retried(expected)


async def test_handler_past_its_deadline_is_cancelled_and_retried() -> None:
    attempt = Attempt(waits, run=a_run(deadline=NOW + 0.01))
    assert await attempt.outcome() == retried("context deadline exceeded")
    assert attempt.run.task.cancel_cause is CancelCause.DEADLINE
    assert attempt.told == ["DeadlineExceededError('context deadline exceeded')"]


async def test_task_whose_deadline_has_passed_fails_without_its_handler() -> None:
    called: list[str] = []
    attempt = Attempt(lambda task: called.append(task.id), run=a_run(deadline=NOW))
    assert await attempt.outcome() == retried("context deadline exceeded")
    assert called == []


async def test_handler_that_swallows_the_cancel_of_its_deadline_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asynqpy.server.deadlines._INSIST_AFTER", 0.01)
    swallowed: list[Any] = []

    async def swallows(task: ActiveTask) -> None:
        while len(swallowed) < 3:
            try:
                await waits(task)
            except asyncio.CancelledError as error:
                swallowed.append(error.args[0])
        await waits(task)

    attempt = Attempt(swallows, run=a_run(deadline=NOW + 0.01))
    async with asyncio.timeout(5):
        assert await attempt.outcome() == retried("context deadline exceeded")
    assert swallowed == [CancelCause.DEADLINE] * 3
    assert "past its deadline" in caplog.text


async def test_handler_that_ends_after_its_deadline_is_insisted_upon_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asynqpy.server.deadlines._INSIST_AFTER", 0.01)
    disturbed: list[int] = []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        job = asyncio.current_task()
        assert job is not None
        await asyncio.sleep(0.05)
        disturbed.append(job.cancelling())

    run = a_run(deadline=NOW + 0.01)
    assert await Attempt(waits, run=run, error_handler=error_handler).outcome()
    assert disturbed == [0]


@pytest.mark.parametrize("cause", list(CancelCause))
async def test_handler_learns_why_it_is_cancelled(cause: CancelCause) -> None:
    seen: list[Any] = []

    async def looks(task: ActiveTask) -> None:
        try:
            await waits(task)
        except asyncio.CancelledError as error:
            seen.extend([error.args[0], task.cancel_cause])
            raise

    await Attempt(looks).cancelled(cause)
    assert seen == [cause, cause]


async def test_cause_reaches_what_the_handler_awaits() -> None:
    seen: list[Any] = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(error.args[0])
            raise

    async def awaits(task: ActiveTask) -> None:
        await asyncio.create_task(inner())

    attempt = Attempt(awaits)
    await asyncio.sleep(0)
    await attempt.cancelled(CancelCause.REQUESTED)
    assert seen == [CancelCause.REQUESTED]


@pytest.mark.parametrize(
    ("cause", "outcome", "told"),
    [
        (
            CancelCause.REQUESTED,
            retried("context canceled"),
            ["TaskCancelledError('context canceled')"],
        ),
        (
            CancelCause.DEADLINE,
            retried("context deadline exceeded"),
            ["DeadlineExceededError('context deadline exceeded')"],
        ),
        (CancelCause.SHUTDOWN, Requeue(), []),
        (CancelCause.LEASE_LOST, None, ["LeaseExpiredError('asynq: task lease expired')"]),
    ],
)
async def test_outcome_of_a_cancelled_handler_depends_on_the_cause(
    cause: CancelCause, outcome: Outcome | None, told: list[str]
) -> None:
    attempt = Attempt(waits)
    assert await attempt.cancelled(cause) == outcome
    assert attempt.told == told


@pytest.mark.parametrize("cause", list(CancelCause))
async def test_handler_that_succeeds_after_its_cancel_has_succeeded(cause: CancelCause) -> None:
    async def completes(task: ActiveTask) -> None:
        with suppress(asyncio.CancelledError):
            await waits(task)

    attempt = Attempt(completes)
    assert await attempt.cancelled(cause) == Done()
    assert attempt.told == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("half done"), retried("ValueError: half done")),
        (SkipRetry("bad"), Archive("bad")),
        (RevokeTask("moot"), Done()),
    ],
)
async def test_error_that_the_handler_raises_after_its_cancel_stands(
    error: Exception, outcome: Outcome
) -> None:
    attempt = Attempt(raises_when_cancelled(error))
    assert await attempt.cancelled(CancelCause.REQUESTED) == outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("connection closed"), Requeue()),
        (SkipRetry("bad"), Archive("bad")),
        (RevokeTask("moot"), Done()),
    ],
)
async def test_shutdown_excuses_any_error_but_a_decision(
    error: Exception, outcome: Outcome
) -> None:
    attempt = Attempt(raises_when_cancelled(error))
    assert await attempt.cancelled(CancelCause.SHUTDOWN) == outcome


def raises_when_cancelled(error: Exception) -> Handler:
    async def handler(task: ActiveTask) -> None:
        try:
            await waits(task)
        except asyncio.CancelledError:
            raise error from None

    return handler


async def test_cancel_before_the_first_step_reaches_the_handler_all_the_same() -> None:
    attempt = Attempt(waits)
    attempt.run.cancel(CancelCause.REQUESTED)
    assert await attempt.outcome() == retried("context canceled")


async def test_cancel_before_the_first_step_of_a_handler_that_needs_only_one_is_too_late() -> None:
    attempt = Attempt(returns)
    attempt.run.cancel(CancelCause.REQUESTED)
    assert await attempt.outcome() == Done()


async def test_async_error_handler_is_awaited_undisturbed_by_the_cancels() -> None:
    told = []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        job = asyncio.current_task()
        assert job is not None
        await asyncio.sleep(0)
        told.append((str(error), job.cancelling()))

    attempt = Attempt(waits, error_handler=error_handler)
    await asyncio.sleep(0)
    for _ in range(2):
        attempt.run.cancel(CancelCause.REQUESTED)
    assert await attempt.outcome() == retried("context canceled")
    assert told == [("context canceled", 0)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_failing_error_handler_changes_nothing(is_async: bool) -> None:
    def fails(task: ActiveTask, error: BaseException) -> None:
        raise LookupError("a fault of its own")

    async def fails_async(task: ActiveTask, error: BaseException) -> None:
        fails(task, error)

    attempt = Attempt(raising(ValueError("no")), error_handler=fails_async if is_async else fails)
    assert await attempt.outcome() == retried("ValueError: no")


async def test_cancel_that_comes_while_the_error_handler_runs_changes_nothing() -> None:
    go_on = asyncio.Event()

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        await go_on.wait()

    attempt = Attempt(raising(ValueError("no")), error_handler=error_handler)
    await eventually(lambda: attempt.run.ended)
    attempt.run.cancel(CancelCause.REQUESTED)
    go_on.set()
    assert await attempt.outcome() == retried("ValueError: no")
    assert attempt.run.task.cancel_cause is None


async def test_aborted_shutdown_cuts_the_error_handler_short_and_keeps_the_outcome() -> None:
    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        await asyncio.Event().wait()

    attempt = Attempt(raising(ValueError("no")), error_handler=error_handler)
    await eventually(lambda: attempt.run.ended)
    attempt.run.abort()
    assert await attempt.outcome() == retried("ValueError: no")


@pytest.mark.parametrize("is_async", [False, True])
async def test_current_task_is_known_below_the_handler(is_async: bool) -> None:
    seen: list[object] = []

    def looks(task: ActiveTask) -> None:
        seen.extend([current_task() is task, threading.current_thread().name])

    async def looks_async(task: ActiveTask) -> None:
        looks(task)

    await Attempt(looks_async if is_async else looks).outcome()
    assert seen[0] is True
    assert (seen[1] == "MainThread") is is_async


async def test_plain_handler_past_its_deadline_is_left_behind_and_its_end_is_told() -> None:
    go_on, ended = threading.Event(), asyncio.Event()
    run = a_run(deadline=NOW + 0.05)
    attempt = Attempt(lambda task: go_on.wait(10), run=run)
    assert await attempt.outcome() == retried("context deadline exceeded")
    assert run.task.thread is not None
    assert not run.task.thread.ended
    run.task.thread.when_ended(ended.set)
    go_on.set()
    await ended.wait()
    assert run.task.thread.ended


async def test_plain_handler_may_ask_whether_it_was_cancelled() -> None:
    started, told = threading.Event(), threading.Event()
    seen: list[CancelCause | None] = []

    def asks(task: ActiveTask) -> None:
        started.set()
        told.wait(10)
        seen.append(task.cancel_cause)

    attempt = Attempt(asks)
    await eventually(started.is_set)
    attempt.run.cancel(CancelCause.REQUESTED)
    assert await attempt.outcome() == retried("context canceled")
    told.set()
    await eventually(lambda: seen == [CancelCause.REQUESTED])


async def test_failure_is_logged_with_the_traceback_of_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await Attempt(raising(ValueError("no"))).outcome()
    (record,) = caplog.records
    assert record.exc_info
    assert "in raises\n    raise error" in caplog.text


async def test_passed_deadline_is_logged_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await Attempt(waits, run=a_run(deadline=NOW + 0.01)).outcome()
    (record,) = caplog.records
    assert "context deadline exceeded" in record.getMessage()
    assert not record.exc_info


async def test_failure_is_logged_with_the_task_in_extra(caplog: pytest.LogCaptureFixture) -> None:
    await Attempt(raising(ValueError("no"))).outcome()
    (record,) = caplog.records
    assert record.getMessage() == (
        "task t1 (email:welcome) failed, attempt 1 of 4 (retry): ValueError('no')"
    )
    assert record.__dict__["task_id"] == "t1"
    assert record.__dict__["queue"] == "default"
    assert record.__dict__["task_type"] == "email:welcome"
