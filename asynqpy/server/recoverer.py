"""The Recoverer: takes care of tasks whose worker died or fell silent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import ExpiredLease, Settlement
from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerError, LeaseExpiredError
from asynqpy.server.error_report import ErrorReport
from asynqpy.server.executor import LEASE_EXPIRED_TEXT
from asynqpy.server.service import Service
from asynqpy.server.verdict import FailurePolicy, after_failure
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds past a lease's end before it counts as expired: leases of Go workers are written by their clocks.
_GRACE = 30


class Recoverer(Service):
    """Retries or archives tasks whose lease has run out, as a failure with the error "task lease expired".

    It acts only where the lease is still the very one it saw, so of several recoverers one acts, and a worker that
    extended its lease meanwhile keeps the task.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        clock: Clock,
        queues: Sequence[str],
        policy: FailurePolicy,
        report: ErrorReport,
        interval: float = 60.0,
    ) -> None:
        super().__init__(interval=interval, at_once=True)
        self._broker = broker
        self._clock = clock
        self._queues = queues
        self._policy = policy
        self._report = report

    async def tick(self) -> float | None:
        while expired := await self._broker.lease_expired(self._queues, self._clock.now() - _GRACE):
            if not await self._recover(expired):
                break
        return None

    async def _recover(self, expired: Sequence[ExpiredLease]) -> bool:
        """Settle one page; answers whether any of it was ours to settle."""
        error = LeaseExpiredError(LEASE_EXPIRED_TEXT)
        tasks = [self._task_of(lease) for lease in expired]
        settlements = [
            self._settlement(lease, task, error) for lease, task in zip(expired, tasks, strict=True)
        ]
        answers = await self._broker.settle(settlements)
        for refusal in {str(answer) for answer in answers if isinstance(answer, BrokerError)}:
            logger.error("could not recover tasks: %s", refusal)
        recovered = [task for task, done in zip(tasks, answers, strict=True) if done is True]
        for task in recovered:
            logger.warning(
                "recovered task %s (%s): its lease had expired",
                task.id,
                task.type,
                extra={"task_id": task.id, "queue": task.queue},
            )
            await self._report.send(task, error)
        return bool(recovered)

    def _settlement(
        self, lease: ExpiredLease, task: ActiveTask, error: LeaseExpiredError
    ) -> Settlement:
        now = self._clock.now()
        outcome = after_failure(lease.message, error, task, self._policy, now)
        return Settlement(lease.message, lease.score, outcome, now)

    def _task_of(self, lease: ExpiredLease) -> ActiveTask:
        deadline = instant(float(lease.score))
        return ActiveTask(lease.message, deadline=deadline, write_result=_refuse)


async def _refuse(data: bytes) -> None:
    raise LeaseExpiredError(LEASE_EXPIRED_TEXT)
