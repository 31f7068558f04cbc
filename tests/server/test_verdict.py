from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry
from asynqpy.errors import (
    DeadlineExceededError,
    PayloadError,
    RevokeTask,
    SkipRetry,
    WorkerCrashedError,
)
from asynqpy.server.verdict import (
    FailurePolicy,
    after_crash,
    after_failure,
    after_success,
    decides,
    effective_deadline,
    error_text,
)
from tests.server.making import NOW, a_message, a_task

TEN_SECONDS = FailurePolicy(retry_delay=lambda retried, error, task: 10.0)


def verdict(error: BaseException, policy: FailurePolicy = TEN_SECONDS, **fields: Any) -> Outcome:
    message = a_message(**fields)
    return after_failure(message, error, a_task(message), policy, NOW)


def caused_by(cause: BaseException) -> BaseException:
    try:
        raise OSError("mail server away") from cause
    except OSError as error:
        return error


def fails(*_: object) -> Any:
    raise LookupError("a fault of the user's function")


@pytest.mark.parametrize(
    ("timeout", "deadline", "expected"),
    [
        (60, 0, NOW + 60),
        (0, NOW + 5, NOW + 5),
        (60, NOW + 5, NOW + 5),
        (3, NOW + 5, NOW + 3),
        (0, 0, NOW + 1800),
        (-1, 0, NOW - 1),
        (0, NOW - 9, NOW - 9),
    ],
)
def test_attempt_ends_at_the_sooner_of_timeout_and_deadline(
    timeout: int, deadline: float, expected: float
) -> None:
    message = a_message(timeout=timeout, deadline=int(deadline))
    assert effective_deadline(message, NOW) == expected


@pytest.mark.parametrize(("retention", "outcome"), [(0, Done()), (-1, Done()), (60, Complete())])
def test_success_is_kept_only_with_retention(retention: int, outcome: Outcome) -> None:
    assert after_success(a_message(retention=retention)) == outcome


@pytest.mark.parametrize(("retried", "max_retry"), [(0, 1), (2, 3), (24, 25)])
def test_failure_with_attempts_left_is_retried(retried: int, max_retry: int) -> None:
    outcome = verdict(ValueError("no"), retried=retried, max_retry=max_retry)
    assert outcome == Retry(NOW + 10, "ValueError: no")


@pytest.mark.parametrize(("retried", "max_retry"), [(0, 0), (3, 3), (4, 3)])
def test_failure_of_the_last_attempt_is_archived(retried: int, max_retry: int) -> None:
    outcome = verdict(ValueError("no"), retried=retried, max_retry=max_retry)
    assert outcome == Archive("ValueError: no")


@pytest.mark.parametrize("error", [SkipRetry("bad"), PayloadError("bad")])
def test_hopeless_failure_is_archived_at_once(error: Exception) -> None:
    assert verdict(error) == Archive("bad")


def test_revoked_task_is_dropped_even_with_retention_and_after_its_last_attempt() -> None:
    assert verdict(RevokeTask("moot"), retention=60, retried=3) == Done()


@pytest.mark.parametrize("cause", [SkipRetry("bad"), PayloadError("bad")])
def test_error_raised_from_a_hopeless_one_is_archived_under_its_own_text(
    cause: Exception,
) -> None:
    assert verdict(caused_by(cause)) == Archive("OSError: mail server away")


def test_error_raised_from_a_revocation_drops_the_task() -> None:
    assert verdict(caused_by(RevokeTask("moot"))) == Done()


@pytest.mark.parametrize("cause", [SkipRetry("bad"), PayloadError("bad")])
def test_group_with_a_hopeless_error_in_it_is_archived_under_its_own_text(cause: Exception) -> None:
    group = ExceptionGroup("all of it", [OSError("away"), ExceptionGroup("part", [cause])])
    assert verdict(group) == Archive("ExceptionGroup: all of it (2 sub-exceptions)")


def test_group_with_a_revocation_in_it_drops_the_task() -> None:
    group = BaseExceptionGroup("all of it", [SkipRetry("bad"), caused_by(RevokeTask("moot"))])
    assert verdict(caused_by(group)) == Done()


async def test_task_group_of_a_handler_may_give_its_task_up() -> None:
    async def give_up() -> None:
        raise SkipRetry("bad")

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up())
    assert isinstance(verdict(raised.value), Archive)


def test_group_of_ordinary_errors_is_retried() -> None:
    group = ExceptionGroup("all of it", [OSError("away"), ValueError("no")])
    assert isinstance(verdict(group), Retry)


def test_revocation_beats_whatever_it_was_raised_with() -> None:
    error = RevokeTask("moot")
    error.__cause__ = SkipRetry("bad")
    assert verdict(error) == Done()


def test_error_raised_while_handling_a_hopeless_one_is_no_such_error() -> None:
    error = OSError("mail server away")
    error.__context__ = SkipRetry("bad")
    assert isinstance(verdict(error), Retry)


def test_errors_that_cause_each_other_come_to_a_verdict() -> None:
    first, second = OSError("first"), OSError("second")
    first.__cause__, second.__cause__ = second, first
    assert verdict(first) == Retry(NOW + 10, "OSError: first")


def test_what_is_no_failure_is_retried_uncounted() -> None:
    policy = FailurePolicy(TEN_SECONDS.retry_delay, lambda error: not isinstance(error, OSError))
    assert verdict(OSError("busy"), policy) == Retry(NOW + 10, "OSError: busy", counted=False)
    assert verdict(ValueError("no"), policy) == Retry(NOW + 10, "ValueError: no")


def test_what_is_no_failure_is_archived_all_the_same_once_no_attempt_is_left() -> None:
    policy = FailurePolicy(is_failure=lambda error: False)
    assert verdict(OSError("busy"), policy, retried=3) == Archive("OSError: busy")


def test_faulty_is_failure_counts_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    outcome = verdict(ValueError("no"), FailurePolicy(TEN_SECONDS.retry_delay, fails))
    assert outcome == Retry(NOW + 10, "ValueError: no")
    assert "is_failure failed" in caplog.text


def test_retry_delay_is_told_what_failed_and_how_often() -> None:
    seen = []

    def delay(retried: int, error: BaseException, task: object) -> float:
        seen.append((retried, str(error), repr(task)))
        return 1.0

    verdict(ValueError("no"), FailurePolicy(delay), retried=2)
    assert seen == [(2, "no", repr(a_task(a_message(retried=2))))]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(timedelta(minutes=2), 120.0), (7, 7.0), (0.5, 0.5), (0, 0.0), (-5, 0.0)],
)
def test_retry_delay_is_seconds_or_a_timedelta_and_never_negative(
    answer: Any, seconds: float
) -> None:
    assert FailurePolicy(lambda *_: answer).delay(0, ValueError(), a_task()) == seconds


@pytest.mark.parametrize("answer", [float("inf"), 1e300, timedelta.max])
def test_endless_retry_delay_still_fits_the_wire(answer: Any) -> None:
    delay = FailurePolicy(lambda *_: answer).delay(0, ValueError(), a_task())
    assert 0 < NOW + delay < 2**33


@pytest.mark.parametrize(
    "faulty", [fails, lambda *_: None, lambda *_: "soon", lambda *_: float("nan")]
)
def test_default_delay_stands_in_for_a_faulty_one(
    faulty: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert 15 <= FailurePolicy(faulty).delay(0, ValueError(), a_task()) <= 44
    assert "retry_delay failed" in caplog.text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such user"), "ValueError: no such user"),
        (ValueError(), "ValueError"),
        (KeyError("user_id"), "KeyError: 'user_id'"),
        (DeadlineExceededError("context deadline exceeded"), "context deadline exceeded"),
        (SkipRetry(), "SkipRetry"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_stored_text_names_the_error(error: BaseException, text: str) -> None:
    assert error_text(error) == text


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise LookupError("no words")


def test_error_that_cannot_be_shown_comes_to_a_verdict() -> None:
    assert verdict(UnspeakableError()) == Retry(NOW + 10, "UnspeakableError")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SkipRetry("enough"), True),
        (RevokeTask("gone"), True),
        (PayloadError("no JSON"), True),
        (ExceptionGroup("both", [ValueError("a"), SkipRetry("enough")]), True),
        (ValueError("boom"), False),
        (TimeoutError(), False),
    ],
)
def test_some_errors_decide_what_becomes_of_the_task(error: Exception, expected: bool) -> None:
    assert decides(error) is expected


@pytest.mark.parametrize(("left", "outcome"), [(11, Retry), (10, Archive), (-5, Archive)])
def test_task_that_has_no_time_for_another_attempt_is_archived(
    left: int, outcome: type[Outcome]
) -> None:
    """Go goes on until all attempts are used up, each failing at once."""
    assert type(verdict(OSError(), deadline=int(NOW) + left)) is outcome


def test_first_crash_puts_the_task_back_at_once() -> None:
    assert after_crash(0, WorkerCrashedError("gone"), NOW, is_alone=True) == Requeue(crashes=1)


def test_second_crash_puts_the_task_back_a_little_later_and_counts_nothing() -> None:
    outcomes = [after_crash(1, WorkerCrashedError("gone"), NOW, is_alone=True) for _ in range(50)]
    assert all(isinstance(outcome, Retry) for outcome in outcomes)
    retries = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    assert {(retry.error, retry.counted, retry.crashes) for retry in retries} == {
        ("gone", False, 2)
    }
    assert all(NOW + 1 <= retry.at <= NOW + 30 for retry in retries)
    assert len({int(retry.at) for retry in retries}) > 5


@pytest.mark.parametrize("crashes", [2, 7])
def test_third_crash_archives_the_task_that_is_alone_and_the_eighth_any(crashes: int) -> None:
    assert after_crash(crashes, WorkerCrashedError("gone"), NOW, is_alone=crashes == 2) == Archive(
        f"poison pill: {crashes + 1} workers died while they ran it; gone"
    )


@pytest.mark.parametrize(("crashes", "longest"), [(2, 60), (3, 120), (6, 120)])
def test_tasks_that_saw_three_workers_die_together_part_company_once_more(
    crashes: int, longest: int
) -> None:
    error = WorkerCrashedError("gone")
    outcomes = [after_crash(crashes, error, NOW, is_alone=False) for _ in range(100)]
    retries = [outcome for outcome in outcomes if isinstance(outcome, Retry)]
    assert len(retries) == 100
    assert {(retry.counted, retry.crashes) for retry in retries} == {(False, crashes + 1)}
    assert longest / 2 < max(retry.at for retry in retries) - NOW <= longest
