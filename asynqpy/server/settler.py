"""Keeps the outcomes that are not in Redis yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from asynqpy.broker.outcomes import Delivery, Lease, Outcome, Requeue, Settlement
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds before an outcome that Redis refused is offered again.
_AGAIN_AFTER = 1.0


@dataclass(slots=True)
class Unsettled:
    """An outcome on its way, next ``due`` at (unix s); it is ``uncertain`` once an answer was lost.

    Then it may have been written, and that another worker has the task is no news.
    """

    task: ActiveTask
    lease: Lease
    settlement: Settlement
    due: float = 0.0
    uncertain: bool = False


class Settler:
    """Gathers outcomes for the next round trip and keeps what Redis refused until the lease ends.

    After that the task belongs to whoever recovers it. It decides on values only; the processor does the sending.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._unsettled: list[Unsettled] = []

    def __len__(self) -> int:
        return len(self._unsettled)

    def add(self, task: ActiveTask, delivery: Delivery, outcome: Outcome) -> None:
        """Take an outcome on."""
        self._unsettled.append(self._unsettled_of(task, delivery, outcome))

    def hand_back(self, task: ActiveTask, delivery: Delivery) -> None:
        """Take on the return of a task that was not begun: nothing is lost should another worker have it by now."""
        item = self._unsettled_of(task, delivery, Requeue())
        item.uncertain = True
        self._unsettled.append(item)

    def _unsettled_of(self, task: ActiveTask, delivery: Delivery, outcome: Outcome) -> Unsettled:
        lease = delivery.lease
        settlement = Settlement(delivery.message, lease.fence, outcome, self._clock.now())
        return Unsettled(task, lease, settlement)

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
            if isinstance(answer, BrokerError):
                item.uncertain |= isinstance(answer, BrokerUnavailableError)
                self._keep(item, answer)
            elif not answer and not item.uncertain:
                lost.append(item.task)
        return lost

    def unanswered(self, taken: Sequence[Unsettled], error: BaseException) -> None:
        """The round trip failed: each may be settled or not, so "lost" is no news any more."""
        for item in taken:
            item.uncertain = True
            self._keep(item, error)

    def _keep(self, item: Unsettled, error: BaseException) -> None:
        message, now = item.settlement.message, self._clock.now()
        ids = {"task_id": message.id, "queue": message.queue, "task_type": message.type}
        outcome, reason = type(item.settlement.outcome).__name__, str(error) or repr(error)
        if now >= item.lease.expires_at:
            logger.error(
                "gave up on writing %s of task %s: its lease has ended (%s)",
                outcome,
                message.id,
                reason,
                extra=ids,
            )
            return
        logger.warning(
            "could not write %s of task %s yet: %s", outcome, message.id, reason, extra=ids
        )
        item.due = now + _AGAIN_AFTER
        self._unsettled.append(item)
