"""Keeps the outcomes that are not in Redis yet."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

import msgspec

from asynqpy.broker.outcomes import Delivery, Lease, Outcome, Requeue, Settlement
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds before an outcome that Redis refused is offered again.
_AGAIN_AFTER = 1.0


class Unsettled(msgspec.Struct, eq=False):
    """An outcome on its way, next ``due`` at (unix s); it is ``uncertain`` once an answer was lost.

    Then it may have been written, and that another worker has the task is no news.
    """

    task: ActiveTask
    lease: Lease
    settlement: Settlement
    due: float = 0.0
    uncertain: bool = False


class Settler:
    """Gathers outcomes for the next round trip and keeps those that are not written yet.

    What Redis did not answer is kept until it does: the fence sees to it that nothing is written late over another
    worker's run. What it refused is offered until the lease ends; then the task is whoever's who recovers it. It
    decides on values only; the processor does the sending.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._unsettled: list[Unsettled] = []

    def __len__(self) -> int:
        return len(self._unsettled)

    def leases(self) -> list[Lease]:
        """Those under which outcomes are still to be written."""
        return [item.lease for item in self._unsettled]

    def add(
        self, task: ActiveTask, delivery: Delivery, outcome: Outcome, *, uncertain: bool = False
    ) -> None:
        """Take an outcome on."""
        lease = delivery.lease
        settlement = Settlement(delivery.message, lease.fence, outcome, self._clock.now())
        self._unsettled.append(Unsettled(task, lease, settlement, uncertain=uncertain))

    def hand_back(self, task: ActiveTask, delivery: Delivery) -> None:
        """Take on the return of a task whose lease may be over: should another worker have it by now, that is well."""
        self.add(task, delivery, Requeue(), uncertain=True)

    def take(self, *, everything: bool = False) -> list[Unsettled]:
        """What is to be sent now, or all there is. Each must come back through ``answered`` or ``unanswered``."""
        now = self._clock.now()
        taken = [item for item in self._unsettled if everything or item.due <= now]
        if len(taken) == len(self._unsettled):
            self._unsettled = []
        else:
            self._unsettled = [item for item in self._unsettled if item.due > now]
        return taken

    def next_due(self) -> float:
        """Seconds until something is to be sent again; infinite when there is nothing."""
        due = min((item.due for item in self._unsettled), default=math.inf)
        return max(0.0, due - self._clock.now())

    def answered(
        self, taken: Sequence[Unsettled], answers: Sequence[bool | BrokerError]
    ) -> list[ActiveTask]:
        """Redis answered each of them; returns the tasks that belong to another worker by now."""
        lost = []
        for item, answer in zip(taken, answers, strict=True):
            if answer is True:
                continue
            if isinstance(answer, BrokerUnavailableError):
                self._keep_unanswered(item, answer)
            elif isinstance(answer, BrokerError):
                self._keep_refused(item, answer)
            elif not item.uncertain:
                lost.append(item.task)
        return lost

    def unanswered(self, taken: Sequence[Unsettled], error: BaseException) -> None:
        """The round trip failed: each may be settled or not, so "lost" is no news any more.

        An error that is not of Redis may well come back each time, and has an end with the lease.
        """
        keep = self._keep_unanswered if is_of_redis(error) else self._keep_refused
        for item in taken:
            keep(item, error)

    def _keep_unanswered(self, item: Unsettled, error: BaseException) -> None:
        logger.debug("%s: %s", _not_yet(item), str(error) or repr(error), extra=_ids(item))
        item.uncertain = True
        self._keep(item)

    def _keep_refused(self, item: Unsettled, error: BaseException) -> None:
        if self._clock.now() >= item.lease.expires_at:
            logger.error(
                "gave up: %s, and its lease has ended (%s)",
                _not_yet(item),
                str(error) or repr(error),
                extra=_ids(item),
            )
            return
        logger.warning("%s: %s", _not_yet(item), str(error) or repr(error), extra=_ids(item))
        self._keep(item)

    def _keep(self, item: Unsettled) -> None:
        item.due = self._clock.now() + _AGAIN_AFTER
        self._unsettled.append(item)


def is_of_redis(error: BaseException) -> bool:
    """Whether a round trip failed because of Redis, or was cut short, rather than by a fault of ours."""
    return isinstance(error, BrokerError | asyncio.CancelledError)


def _not_yet(item: Unsettled) -> str:
    settlement = item.settlement
    return f"could not write {type(settlement.outcome).__name__} of task {settlement.message.id}"


def _ids(item: Unsettled) -> dict[str, str]:
    message = item.settlement.message
    return {"task_id": message.id, "queue": message.queue, "task_type": message.type}
