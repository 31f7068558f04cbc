"""Which tasks may be what kills workers: decided on what several looks at Redis have shown, without Redis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from asynqpy.broker.outcomes import SilentLease

#: Workers that may die with a task, one after the other, before it is taken for what kills them.
POISON_AFTER = 3

#: Seconds of silence after which all that a dead worker had taken is in sight: what it took last, right before it died,
#: falls silent last.
ALL_IN_SIGHT = 16

#: Seconds after which a dead worker is forgotten.
_FORGET_AFTER = 120.0

_Task: TypeAlias = tuple[str, bytes]


def is_suspect(lease: SilentLease) -> bool:
    """Whether one more crash makes it a poison pill."""
    return lease.crashes + 1 >= POISON_AFTER


class Suspects:
    """Remembers, of each dead worker, the tasks that have seen enough of them die. Of several, one may be innocent."""

    def __init__(self) -> None:
        self._by_owner: dict[str, tuple[float, set[_Task]]] = {}

    def note(self, leases: Iterable[SilentLease], now: float) -> None:
        """Take in leases that nobody extends ``now`` (unix s)."""
        for lease in filter(is_suspect, leases):
            _, tasks = self._by_owner.get(lease.owner, (now, set()))
            tasks.add((lease.queue, lease.id))
            self._by_owner[lease.owner] = now, tasks
        self._by_owner = {
            owner: (seen, tasks)
            for owner, (seen, tasks) in self._by_owner.items()
            if now - seen < _FORGET_AFTER
        }

    def is_alone(self, lease: SilentLease) -> bool:
        """Whether no other task could have killed the worker as well as this one."""
        _, tasks = self._by_owner.get(lease.owner, (0.0, set()))
        return tasks <= {(lease.queue, lease.id)}
