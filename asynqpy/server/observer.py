"""What a server tells of its work to whoever counts it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from asynqpy.broker.outcomes import Archive, Outcome, Requeue, Retry
from asynqpy.server.runs import Run
from asynqpy.server.verdict import decides
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

T = TypeVar("T")


class AttemptEnd(StrEnum):
    """How an attempt at a task ended. All but ``SUCCESS``, ``POSTPONED``, ``REVOKED`` and ``REQUEUED`` are failures."""

    SUCCESS = "success"
    #: It failed, and will be tried again.
    RETRY = "retry"
    #: It will be tried again, and ``is_failure`` said that this is no failure.
    POSTPONED = "postponed"
    #: It failed, and no retry is left.
    ARCHIVED = "archived"
    #: It was archived at once: ``SkipRetry``, or a payload that the handler cannot read.
    SKIPPED = "skipped"
    #: The handler raised ``RevokeTask``.
    REVOKED = "revoked"
    #: It was handed back, as by a shutdown.
    REQUEUED = "requeued"
    #: Its lease was lost: another worker decides about it.
    LOST = "lost"


class ServerObserver:
    """Base class of what ``Server(observer=...)`` tells of its work: override what you want to know.

    Every method is called on the server's event loop in the midst of its work, so it must be quick, and not wait. What
    it raises is logged, no more.
    """

    def attempt_started(self, task: ActiveTask, waited: float | None) -> None:
        """A handler is about to run. The task has been pending for ``waited`` s; ``None`` if that is unknown."""

    def attempt_ended(self, task: ActiveTask, end: AttemptEnd, seconds: float) -> None:
        """An attempt that started has ended. Its handler took so many ``seconds``; 0 if it came too late to run."""

    def outcomes_written(self, count: int) -> None:
        """Redis was sent what became of ``count`` tasks, in one round trip."""

    def loop_answered(self, lag: float) -> None:
        """About once a second: the event loop took ``lag`` s to come to what it was asked to do at once."""


def tell_started(observer: ServerObserver, run: Run) -> None:
    """Tell of a run whose handler is next."""
    since_ns = run.delivery.pending_since
    # Clocks of hosts differ: the one that wrote it may have been ahead.
    waited = None if since_ns is None else max(0.0, run.started_at - since_ns / 1e9)
    try:
        observer.attempt_started(run.task, waited)
    except Exception:
        _complain(run)


def tell_ended(
    observer: ServerObserver,
    run: Run,
    error: BaseException | None,
    outcome: Outcome | None,
    seconds: float,
) -> None:
    """Tell of a run whose outcome stands; ``None`` if it is another worker's to decide."""
    end = AttemptEnd.SUCCESS if error is None else end_of_failure(error, outcome)
    try:
        observer.attempt_ended(run.task, end, seconds)
    except Exception:
        _complain(run)


def end_of_failure(error: BaseException, outcome: Outcome | None) -> AttemptEnd:
    """By which name it goes that a handler raised this error, and this became of the task."""
    match outcome:
        case None:
            return AttemptEnd.LOST
        case Requeue():
            return AttemptEnd.REQUEUED
        case Retry():
            return AttemptEnd.RETRY if outcome.counted else AttemptEnd.POSTPONED
        case Archive():
            return AttemptEnd.SKIPPED if decides(error) else AttemptEnd.ARCHIVED
        case _:
            return AttemptEnd.REVOKED


def guarded(tell: Callable[[T], object]) -> Callable[[T], None]:
    """The method of an observer, its faults being logged."""

    def told(value: T) -> None:
        try:
            tell(value)
        except Exception:
            logger.exception("the observer failed")

    return told


def _complain(run: Run) -> None:
    logger.exception(
        "the observer failed for task %s (%s)",
        run.message.id,
        run.message.type,
        extra={"task_id": run.message.id, "queue": run.message.queue},
    )
