"""What each operation is to do, once more and in the plainest words: a queue in memory.

It shares no code with the scripts. A machine does everything twice, in Redis and here, and compares answers and queues.
Whole seconds, as the wire wants them, are cut off here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.outcomes import (
    Archive,
    Complete,
    Done,
    Grant,
    Lease,
    Orphan,
    Requeue,
    Retry,
    Settlement,
    SilentLease,
)
from asynqpy.broker.producing import NewTask
from asynqpy.errors import AsynqError, DuplicateTaskError, TaskIdConflictError
from tests.model.queue_state import QUEUE, QueueState, Record

_STAMPS = 2**21
_LEASE = 30


class Reference:
    """The queue as it should be. Times are unix s."""

    def __init__(self) -> None:
        self.queue = QueueState()

    # Producers.

    def enqueue(self, tasks: Sequence[NewTask]) -> list[type[AsynqError] | None]:
        return [self._enqueue(task) for task in tasks]

    def _enqueue(self, task: NewTask) -> type[AsynqError] | None:
        message, queue = task.message, self.queue
        record = queue.records.get(message.id)
        if record is not None and record.token == task.token:
            return None
        holder = queue.locks.get(message.unique_key, "")
        if message.unique_key and holder in queue.records:
            return DuplicateTaskError
        if record is not None:
            return TaskIdConflictError
        if message.unique_key:
            queue.locks[message.unique_key] = message.id
        queue.records[message.id] = Record(
            message, str(task.state), token=task.token, lock=message.unique_key
        )
        self._place_new(task)
        return None

    def _place_new(self, task: NewTask) -> None:
        task_id = task.message.id
        if task.state is TaskState.PENDING:
            self.queue.pending.append(task_id)
        elif task.state is TaskState.SCHEDULED:
            self.queue.sets["scheduled"][task_id] = float(task.score)
        else:
            self._join(task_id, task.message.group_key, task.score)

    def _join(self, task_id: str, group: str, score: float) -> None:
        self.queue.records[task_id].group = group
        self.queue.groups.setdefault(group, {})[task_id] = float(score)

    # Workers.

    def dequeue(self, grant: Grant, limit: int) -> list[str]:
        """The ids given out, in order."""
        queue = self.queue
        if queue.paused:
            return []
        taken, queue.pending = queue.pending[:limit], queue.pending[limit:]
        for task_id in taken:
            queue.active.append(task_id)
            queue.leases[task_id] = grant.granted_until + grant.stamp / _STAMPS
            queue.records[task_id].state = "active"
            queue.records[task_id].owner = grant.owner
        return taken

    def holds(self, task_id: str, fence: str) -> bool:
        """Whether a fence opens: the stamp of the lease, or its exact score."""
        score = self.queue.leases.get(task_id)
        if score is None:
            return False
        proof = float(fence)
        return score == proof if proof >= _STAMPS else score % 1 * _STAMPS == proof

    def settle(self, settlements: Sequence[Settlement], now: float) -> list[bool]:
        """Settlements of one kind go together, in the order in which the kinds first appear."""
        answers: dict[int, bool] = {}
        kinds = dict.fromkeys(type(each.outcome) for each in settlements)
        for kind in kinds:
            places = [n for n, each in enumerate(settlements) if type(each.outcome) is kind]
            # What is put back is to run in the order in which it was taken: the last goes first.
            for place in reversed(places) if kind is Requeue else places:
                answers[place] = self._settle(settlements[place], now)
        return [answers[n] for n in range(len(settlements))]

    def _settle(self, settlement: Settlement, now: float) -> bool:
        task_id = settlement.message.id
        if not self.holds(task_id, settlement.fence):
            return self._was_settled(settlement)
        self._let_go(task_id)
        match settlement.outcome:
            case Done():
                self._drop(task_id)
                self.queue.processed += 1
            case Complete():
                message = _message_after(settlement)
                self._move(task_id, "completed", message.completed_at + message.retention)
                self._release(task_id)
                self.queue.processed += 1
            case Retry(at=at, counted=counted):
                self._move(task_id, "retry", int(at))
                self._count_failure(counted)
            case Archive():
                self._move(task_id, "archived", int(now))
                self._count_failure(True)
            case Requeue():
                self.queue.pending.insert(0, task_id)
                self.queue.records[task_id].state = "pending"
        self._note(settlement)
        return True

    def _was_settled(self, settlement: Settlement) -> bool:
        """Whether a holder without a lease may take its settlement for written, by an earlier run of the call."""
        record = self.queue.records.get(settlement.message.id)
        outcome = settlement.outcome
        if isinstance(outcome, Done):
            return record is None
        if record is None:
            return False
        is_holder = float(settlement.fence) < _STAMPS
        if isinstance(outcome, Requeue):
            return is_holder and record.state == "pending"
        is_same = record.message == _message_after(settlement)
        if isinstance(outcome, Complete):
            return record.state == "completed" and is_same
        wanted = "retry" if isinstance(outcome, Retry) else "archived"
        return is_holder and record.state == wanted and is_same

    def _note(self, settlement: Settlement) -> None:
        """What the hash says after a settlement."""
        record = self.queue.records.get(settlement.message.id)
        if record is None:
            return
        record.message = _message_after(settlement)
        crashes = getattr(settlement.outcome, "crashes", None)
        if crashes is not None or not isinstance(settlement.outcome, Requeue):
            record.crashes = crashes or 0

    def _count_failure(self, counted: bool) -> None:
        self.queue.processed += counted
        self.queue.failed += counted

    def extend(self, lease: Lease, now: float) -> bool:
        if not self.holds(lease.id, lease.fence):
            return False
        self.queue.leases[lease.id] = int(now) + _LEASE + lease.stamp / _STAMPS
        return True

    def extend_grant(self, grant: Grant, now: float) -> None:
        for task_id in self._granted(grant):
            self.queue.leases[task_id] = int(now) + _LEASE + grant.stamp / _STAMPS

    def requeue_grant(self, grant: Grant) -> int:
        """Put back what the grant gave out, found by stamp and owner; answers how many tasks that are."""
        found = sorted(self._granted(grant), key=lambda i: (self.queue.leases[i], i))
        for task_id in found:
            self._let_go(task_id)
            self.queue.pending.insert(0, task_id)
            self.queue.records[task_id].state = "pending"
        return len(found)

    def _granted(self, grant: Grant) -> list[str]:
        leases, records = self.queue.leases, self.queue.records
        return [
            i
            for i, score in leases.items()
            if score % 1 * _STAMPS == grant.stamp and records[i].owner == grant.owner
        ]

    def write_result(self, lease: Lease, data: bytes) -> bool:
        if not self.holds(lease.id, lease.fence):
            return False
        self.queue.records[lease.id].result = data
        return True

    # Maintenance.

    def silent(self, until: float, go_until: float) -> list[SilentLease]:
        """Leases that end at or before ``until``, or ``go_until`` for whole scores; longest silent first."""
        found = []
        for task_id, score in sorted(
            self.queue.leases.items(), key=lambda item: (item[1], item[0])
        ):
            is_go = score.is_integer()
            if score <= int(go_until if is_go else until):
                record = self.queue.records[task_id]
                owner, crashes = "" if is_go else record.owner, record.crashes
                found.append(SilentLease(QUEUE, task_id.encode(), f"{score:.17g}", owner, crashes))
        return found

    def orphans(self, leases: Sequence[SilentLease]) -> list[Orphan]:
        """Those leases with the messages that the tasks have now; tasks that are gone left out."""
        records = [(self.queue.records.get(lease.id.decode()), lease) for lease in leases]
        return [Orphan(r.message, lease) for r, lease in records if r is not None and r.message]

    def forward(self, now: float) -> None:
        for name in ("scheduled", "retry"):
            source = self.queue.sets[name]
            for task_id, score in sorted(source.items(), key=lambda item: (item[1], item[0])):
                if score <= int(now):
                    del source[task_id]
                    self._arrive(task_id, int(now))

    def _arrive(self, task_id: str, now: int) -> None:
        record = self.queue.records[task_id]
        record.state = "aggregating" if record.group else "pending"
        if record.group:
            self._join(task_id, record.group, now)
        else:
            self.queue.pending.append(task_id)

    def delete_expired(self, now: float) -> int:
        completed = self.queue.sets["completed"]
        expired = [i for i, score in completed.items() if score <= int(now)]
        for task_id in expired:
            del completed[task_id], self.queue.records[task_id]
        return len(expired)

    # People.

    def steer(self, what: str, task_id: str, now: float) -> None:
        """``run``, ``archive`` or ``delete`` a task."""
        barred = {"run": ("active", "pending"), "archive": ("active", "archived")}
        if not self._take_out(task_id, barred.get(what, ("active",))):
            return
        if what == "run":
            self.queue.pending.append(task_id)
            self.queue.records[task_id].state = "pending"
        elif what == "archive":
            self._move(task_id, "archived", int(now))
        else:
            self._drop(task_id)

    def _take_out(self, task_id: str, barred: Iterable[str]) -> bool:
        record = self.queue.records.get(task_id)
        if record is None or record.state in barred:
            return False
        if record.state == "pending":
            self.queue.pending.remove(task_id)
        elif record.state == "aggregating":
            del self.queue.groups[record.group][task_id]
            if not self.queue.groups[record.group]:
                del self.queue.groups[record.group]
        else:
            del self.queue.sets[record.state][task_id]
        return True

    # What several of them do.

    def _let_go(self, task_id: str) -> None:
        self.queue.active.remove(task_id)
        del self.queue.leases[task_id]
        self.queue.records[task_id].owner = ""

    def _move(self, task_id: str, name: str, score: float) -> None:
        self.queue.sets[name][task_id] = float(score)
        self.queue.records[task_id].state = name

    def _drop(self, task_id: str) -> None:
        self._release(task_id)
        del self.queue.records[task_id]

    def _release(self, task_id: str) -> None:
        lock = self.queue.records[task_id].lock
        if lock and self.queue.locks.get(lock) == task_id:
            del self.queue.locks[lock]


def _message_after(settlement: Settlement) -> TaskMessage:
    message, ended_at = settlement.message, int(settlement.ended_at)
    match settlement.outcome:
        case Complete():
            return msgspec.structs.replace(message, completed_at=ended_at)
        case Retry(error=error, counted=counted):
            retried = message.retried + (1 if counted else 0)
            return msgspec.structs.replace(
                message, error_msg=error, last_failed_at=ended_at, retried=retried
            )
        case Archive(error=error):
            return msgspec.structs.replace(message, error_msg=error, last_failed_at=ended_at)
        case _:
            return message
