"""The Recoverer: takes care of tasks whose worker died or fell silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence, Set

from asynqpy.broker.batches import chunks
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Orphan, Requeue, Retry, Settlement, SilentLease
from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerError, LeaseExpiredError, WorkerCrashedError
from asynqpy.server.error_report import ErrorReport
from asynqpy.server.executor import LEASE_EXPIRED_TEXT
from asynqpy.server.service import Service, cancel_until_done
from asynqpy.server.suspects import Suspects
from asynqpy.server.verdict import after_crash
from asynqpy.server.watch import Watch, silent_until
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds between two looks, and between those while some lease is watched.
_INTERVAL = 2.0
_WATCHING = 1.0

#: Seconds that error handlers get to end when the server stops.
_LAST_REPORTS = 0.5

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
        self._report = report
        self._owner = owner
        self._claims = claims
        self._retry_due = retry_due
        self._watch = Watch()
        self._suspects = Suspects()
        self._reports: set[asyncio.Task[None]] = set()

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
        if self._reports:
            await asyncio.wait(self._reports, timeout=_LAST_REPORTS)
        for report in list(self._reports):
            await cancel_until_done(report)

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
        settlements = [self._settlement(orphan, unclaimed) for orphan in orphans]
        answers = await self._broker.settle(settlements)
        refusals = {str(answer) for answer in answers if isinstance(answer, BrokerError)}
        if refusals:
            # Who holds leases could not extend them either, and gets the time to do so when Redis takes writes again.
            self._watch.forget()
        for refusal in refusals:
            logger.error("could not recover tasks: %s", refusal)
        recovered = []
        for orphan, settlement, answer in zip(orphans, settlements, answers, strict=True):
            if answer is True:
                self._note(orphan, settlement)
                recovered.append(orphan)
        self._report_later(recovered)

    def _settlement(self, orphan: Orphan, unclaimed: Set[SilentLease]) -> Settlement:
        lease, now = orphan.lease, self._clock.now()
        if lease.owner and lease not in unclaimed:
            # Its server lives and has let it go: nobody died.
            return Settlement(orphan.message, lease.score, Requeue(), now)
        error, is_alone = self._error_of(lease), self._suspects.is_alone(lease)
        outcome = after_crash(lease.crashes, error, now, is_alone=is_alone)
        return Settlement(orphan.message, lease.score, outcome, now)

    def _error_of(self, lease: SilentLease) -> LeaseExpiredError:
        if lease.owner and lease.owner != self._owner:
            return WorkerCrashedError(f"the worker {lease.owner} died while it ran the task")
        return LeaseExpiredError(LEASE_EXPIRED_TEXT)

    def _note(self, orphan: Orphan, settlement: Settlement) -> None:
        message, outcome = orphan.message, settlement.outcome
        if isinstance(outcome, Retry):
            self._retry_due(outcome.at)
        logger.log(
            logging.ERROR if isinstance(outcome, Archive) else logging.WARNING,
            "recovered task %s (%s): %s (%s, crash %d)",
            message.id,
            message.type,
            self._error_of(orphan.lease),
            type(outcome).__name__.lower(),
            orphan.lease.crashes + 1,
            extra={"task_id": message.id, "queue": message.queue, "task_type": message.type},
        )

    def _report_later(self, orphans: Sequence[Orphan]) -> None:
        """Tell the error handler, one task after the other, but let no slow one hold up the recovery of others."""
        if orphans:
            report = asyncio.create_task(self._report_all(orphans), name="asynqpy:report")
            self._reports.add(report)
            report.add_done_callback(self._reports.discard)

    async def _report_all(self, orphans: Sequence[Orphan]) -> None:
        for orphan in orphans:
            await self._report.send(_task_of(orphan), self._error_of(orphan.lease))


def _task_of(orphan: Orphan) -> ActiveTask:
    deadline = instant(orphan.lease.expires_at)
    return ActiveTask(orphan.message, deadline=deadline, write_result=_refuse)


async def _refuse(data: bytes) -> None:
    raise LeaseExpiredError(LEASE_EXPIRED_TEXT)
