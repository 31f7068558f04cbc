"""Runs the handler of one task under its deadline, and says what becomes of the task."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import Outcome, Requeue
from asynqpy.clock import Clock
from asynqpy.errors import (
    DeadlineExceededError,
    LeaseExpiredError,
    TaskCancelledError,
)
from asynqpy.handler import AsyncHandler
from asynqpy.server.deadlines import Deadlines
from asynqpy.server.error_report import ErrorReport
from asynqpy.server.observer import ServerObserver, tell_ended, tell_started
from asynqpy.server.runs import Run
from asynqpy.server.verdict import FailurePolicy, after_failure, after_success, decides
from asynqpy.task import ActiveTask, CancelCause, running_task

logger = logging.getLogger("asynqpy.server")


class Executor:
    """Carries a run from its handler to an outcome. It writes nothing."""

    def __init__(
        self,
        *,
        handler: AsyncHandler,
        policy: FailurePolicy,
        report: ErrorReport,
        clock: Clock,
        observer: ServerObserver | None = None,
    ) -> None:
        self._handler = handler
        self._policy = policy
        self._report = report
        self._clock = clock
        self._observer = observer
        self._deadlines = Deadlines()

    async def execute(self, run: Run) -> Outcome | None:
        """The outcome of the run; ``None`` when the task belongs to another worker by now."""
        running_task.set(run.task)
        left = run.deadline - self._clock.now()
        observer, began = self._observer, 0.0
        if observer is not None:
            tell_started(observer, run)
            began = perf_counter()
        if left <= 0:
            run.ended = True
            return await self._fail(run, DeadlineExceededError(_DEADLINE_TEXT), 0.0)
        self._deadlines.add(run, left)
        run.begun = True
        error: BaseException | None = None
        try:
            await self._handler(run.task)
        # Whatever the handler itself returns or raises stands, even if it was asked to stop meanwhile.
        except asyncio.CancelledError:
            error = _cancellation_error(run.task)
        except Exception as raised:
            error = raised
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as raised:
            # A handler that calls sys.exit() fails; it does not take the server with it.
            error = raised
        finally:
            self._deadlines.remove(run)
            if run.task.cancel_cause is not None:
                _uncancel()
        run.ended = True
        seconds = 0.0 if observer is None else perf_counter() - began
        if error is not None:
            return await self._fail(run, error, seconds)
        if observer is not None:
            tell_ended(observer, run, None, None, seconds)
        return after_success(run.message)

    async def _fail(self, run: Run, error: BaseException, seconds: float) -> Outcome | None:
        outcome = await self._after_error(run, error)
        if self._observer is not None:
            tell_ended(self._observer, run, error, outcome, seconds)
        return outcome

    async def _after_error(self, run: Run, error: BaseException) -> Outcome | None:
        cause = run.task.cancel_cause
        if cause is CancelCause.SHUTDOWN and not decides(error):
            return Requeue()
        if cause is CancelCause.LEASE_LOST:
            await self._send(run.task, LeaseExpiredError(LEASE_EXPIRED_TEXT))
            # Offered when Redis is back, under the old fence: maybe nobody has taken the task.
            return Requeue() if run.lapsed else None
        await self._send(run.task, error)
        outcome = after_failure(run.message, error, run.task, self._policy, self._clock.now())
        _log_failure(run.message, error, outcome)
        return outcome

    async def _send(self, task: ActiveTask, error: BaseException) -> None:
        try:
            await self._report.send(task, error)
        except asyncio.CancelledError:
            # Only an aborted shutdown cancels a run that has ended: the outcome still counts.
            _uncancel()
            logger.warning("the error handler was cancelled by the shutdown")


#: Error texts that Go's asynq stores for the same events.
LEASE_EXPIRED_TEXT = "asynq: task lease expired"
_DEADLINE_TEXT = "context deadline exceeded"
_CANCELLED_TEXT = "context canceled"


def _cancellation_error(task: ActiveTask) -> BaseException:
    if task.cancel_cause is None:
        return TaskCancelledError("the handler raised CancelledError of its own accord")
    if task.cancel_cause is CancelCause.DEADLINE:
        return DeadlineExceededError(_DEADLINE_TEXT)
    return TaskCancelledError(_CANCELLED_TEXT)


def _uncancel() -> None:
    """The cancels have done their work: what is awaited next must not be cut short by them."""
    job = asyncio.current_task()
    while job is not None and job.cancelling():
        job.uncancel()


def _log_failure(message: TaskMessage, error: BaseException, outcome: Outcome) -> None:
    # What the handler decided on, and what was cut short from outside, needs no traceback.
    needs_traceback = error.__traceback__ is not None and not decides(error)
    logger.warning(
        "task %s (%s) failed, attempt %d of %d (%s): %r",
        message.id,
        message.type,
        message.retried + 1,
        message.max_retry + 1,
        type(outcome).__name__.lower(),
        error,
        exc_info=error if needs_traceback else None,
        extra={"task_id": message.id, "queue": message.queue, "task_type": message.type},
    )
