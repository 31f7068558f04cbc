"""The Recoverer: takes care of tasks whose worker died or fell silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from asynqpy.broker.batches import chunks
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import (
    Archive,
    Orphan,
    Outcome,
    Requeue,
    Retry,
    Settlement,
    SilentLease,
)
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, LeaseExpiredError, WorkerCrashedError
from asynqpy.server.error_report import ErrorReport, LaterReports
from asynqpy.server.executor import LEASE_EXPIRED_TEXT
from asynqpy.server.service import Service
from asynqpy.server.suspects import Suspects
from asynqpy.server.verdict import after_crash
from asynqpy.server.watch import Watch, silent_until
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds between two looks, and between those while some lease is watched.
_INTERVAL = 2.0
_WATCHING = 1.0

#: Tasks recovered at a time; their payloads are read for it.
_PAGE = 100


class Recoverer(Service):
    """Gives tasks back whose worker shows no sign of life any more, within 15 s; the third crash archives the task.

    It acts only where the lease is still the very one it saw, so of several recoverers one acts, and a worker that
    extended its lease meanwhile keeps the task.
    """

    longest_back_off = 2.0

    def __init__(
        self,
        *,
        broker: Broker,
        clock: Clock,
        queues: Sequence[str],
        report: ErrorReport,
        owner: str,
        claims: Callable[[str, bytes], bool],
        retry_due: Callable[[float], None] = lambda due: None,
    ) -> None:
        """``claims(queue, id)`` tells whether this server, the ``owner``, knows of the task.

        ``retry_due`` is told when (unix s) a task that was put in retry is due.
        """
        super().__init__(interval=_INTERVAL, at_once=True)
        self._broker = broker
        self._clock = clock
        self._queues = queues
        self._owner = owner
        self._claims = claims
        self._retry_due = retry_due
        self._watch = Watch()
        self._suspects = Suspects()
        self._reports = LaterReports(report)

    async def tick(self) -> float | None:
        try:
            # Never by the clock of a host that Redis has not confirmed.
            await self._broker.keep_clock()
            silent = await self._broker.silent_leases(
                self._queues, *silent_until(self._clock.now())
            )
            unclaimed = await self._unclaimed(silent)
        except BrokerError:
            self._watch.forget()
            raise
        self._suspects.note(unclaimed, self._clock.now())
        for page in chunks(self._watch.look(silent, unclaimed, self._clock.now()), _PAGE):
            await self._recover(await self._broker.orphans(page), unclaimed)
        return _WATCHING if silent else None

    async def finish(self) -> None:
        """Give error handlers a moment to end."""
        try:
            await self._reports.wait()
        finally:
            await self._reports.cancel()

    async def _unclaimed(self, silent: Sequence[SilentLease]) -> set[SilentLease]:
        """Leases of dead servers, and our own that we know nothing of: a Redis that lost its last writes has such."""
        others = {lease.owner for lease in silent if lease.owner} - {self._owner}
        absent = await self._broker.absent(others) if others else set()
        return {
            lease
            for lease in silent
            if lease.owner in absent
            or (lease.owner == self._owner and not self._claims(lease.queue, lease.id))
        }

    async def _recover(self, orphans: Sequence[Orphan], unclaimed: Set[SilentLease]) -> None:
        recoveries = [self._recovery(orphan, unclaimed) for orphan in orphans]
        answers = await self._broker.settle([it.settlement for it in recoveries])
        refusals = {str(answer) for answer in answers if isinstance(answer, BrokerError)}
        if refusals:
            # Who holds leases could not extend them either, and gets the time to do so when Redis takes writes again.
            self._watch.forget()
        for refusal in refusals:
            logger.error("could not recover tasks: %s", refusal)
        done = [it for it, answer in zip(recoveries, answers, strict=True) if answer is True]
        for recovery in done:
            _log(recovery)
            if isinstance(recovery.outcome, Retry):
                self._retry_due(recovery.outcome.at)
        self._reports.send([(_task_of(it.orphan), it.error) for it in done])

    def _recovery(self, orphan: Orphan, unclaimed: Set[SilentLease]) -> _Recovery:
        lease, now = orphan.lease, self._clock.now()
        error = LeaseExpiredError(LEASE_EXPIRED_TEXT)
        outcome: Outcome = Requeue()
        if not lease.owner or (lease in unclaimed and lease.owner != self._owner):
            if lease.owner:
                error = WorkerCrashedError(f"the worker {lease.owner} died while it ran the task")
            is_alone = self._suspects.is_alone(lease)
            outcome = after_crash(lease.crashes, error, now, is_alone=is_alone)
        # Else its server lives, and has let it go or knows nothing of it: nobody died.
        settlement = Settlement(orphan.message, lease.score, outcome, now)
        return _Recovery(orphan, error, outcome, settlement)


@dataclass(frozen=True, slots=True)
class _Recovery:
    """What becomes of an orphan, and why."""

    orphan: Orphan
    error: LeaseExpiredError
    outcome: Outcome
    settlement: Settlement


def _log(recovery: _Recovery) -> None:
    message, outcome = recovery.orphan.message, recovery.outcome
    logger.log(
        logging.ERROR if isinstance(outcome, Archive) else logging.WARNING,
        "recovered task %s (%s): %s (%s)",
        message.id,
        message.type,
        recovery.error,
        _in_words(outcome),
        extra={"task_id": message.id, "queue": message.queue, "task_type": message.type},
    )


def _in_words(outcome: Outcome) -> str:
    name = type(outcome).__name__.lower()
    crashes = getattr(outcome, "crashes", None)
    return name if crashes is None else f"{name}, crash {crashes}"


def _task_of(orphan: Orphan) -> ActiveTask:
    return ActiveTask(orphan.message, deadline=orphan.lease.expires_at, write_result=_refuse)


async def _refuse(data: bytes) -> None:
    raise LeaseExpiredError(LEASE_EXPIRED_TEXT)
