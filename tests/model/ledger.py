"""What must be true whatever the scripts are meant to do: nothing acknowledged is lost, nothing ended runs again, and
who does not hold a task cannot touch it.
"""

from __future__ import annotations

from collections.abc import Iterator

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome
from tests.model.queue_state import QueueState


class Ledger:
    """Knows tasks by the attempt to enqueue that made them, so a new task under an old id is another one.

    During a step it is told who was told what, and what may change. ``problems`` judges the step and begins the next.
    """

    def __init__(self) -> None:
        self._acknowledged: dict[bytes, str] = {}
        self._gone: set[bytes] = set()
        self._ended: set[bytes] = set()
        self._before = QueueState()
        self._droppable: set[bytes] = set()
        self._storable: set[bytes] = set()
        self._touchable: set[str] | None = None

    def acknowledged(self, message: TaskMessage) -> None:
        """A client was told that its task is stored."""
        self._acknowledged[message.payload] = message.id

    def may_store(self, message: TaskMessage) -> None:
        """This step may store the task; perhaps once more, if it had ended before its client tried again."""
        self._storable.add(message.payload)

    def settled(self, message: TaskMessage, outcome: Outcome) -> None:
        """Redis answered that the outcome is written."""
        if isinstance(outcome, Done | Complete | Archive):
            self._ended.add(message.payload)

    def revived(self, task_id: str) -> None:
        """Somebody asked for the task to run again."""
        record = self._before.records.get(task_id)
        if record is not None:
            self._ended.discard(record.attempt)

    def may_drop(self, task_id: str) -> None:
        """This step may delete the task as it is now."""
        record = self._before.records.get(task_id)
        if record is not None:
            self._droppable.add(record.attempt)

    def may_touch(self, *task_ids: str) -> None:
        """This step may change these tasks, and no others."""
        self._touchable = (self._touchable or set()) | set(task_ids)

    def delivered(self, message: TaskMessage) -> None:
        assert message.payload not in self._ended, f"{message.id} runs again after its end"

    def problems(self, queue: QueueState, set_aside: set[bytes]) -> Iterator[str]:
        """What was wrong with the step that made the queue what it is now."""
        there = {record.attempt for record in queue.records.values() if record.message}
        before = {record.attempt for record in self._before.records.values() if record.message}
        missing, new = before - there, there - before
        self._ended -= new & self._storable
        if new - self._storable:
            yield f"attempts {sorted(new - self._storable)} came from nowhere"
        self._gone = (self._gone | (missing & self._droppable)) - there
        for attempt, task_id in self._acknowledged.items():
            if attempt not in there | set_aside | self._gone:
                yield f"{task_id} (attempt {attempt.decode()}) is lost"
        if self._touchable is not None:
            yield from self._touched(queue, self._touchable)
        self._before, self._touchable = queue, None
        self._droppable, self._storable = set(), set()

    def _touched(self, queue: QueueState, touchable: set[str]) -> Iterator[str]:
        before = self._before
        for task_id in (before.records.keys() | queue.records.keys()) - touchable:
            if before.records.get(task_id) != queue.records.get(task_id):
                yield f"{task_id} was changed by somebody who did not hold it"
            if before.leases.get(task_id) != queue.leases.get(task_id):
                yield f"the lease of {task_id} was changed by somebody who did not hold it"
