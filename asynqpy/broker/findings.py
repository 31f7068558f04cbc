"""What can be wrong in a queue, by the invariants that hold in a sound one (``docs/guide/doctor.md`` lists them)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Problem(StrEnum):
    """A kind of damage. ``invariant`` is the rule that it breaks, ``text`` says it in words."""

    NO_RECORD = "no_record"
    NO_MESSAGE = "no_message"
    NOT_A_HASH = "not_a_hash"
    UNREADABLE = "unreadable"
    WRONG_STATE = "wrong_state"
    WRONG_TYPE = "wrong_type"
    LISTED_TWICE = "listed_twice"
    SEVERAL_PLACES = "several_places"
    NO_LEASE = "no_lease"
    NOT_ACTIVE = "not_active"
    ORPHAN = "orphan"
    LEAKED_LOCK = "leaked_lock"
    UNINDEXED_GROUP = "unindexed_group"
    EMPTY_GROUP = "empty_group"
    LOST_SET = "lost_set"
    STALE_SET = "stale_set"
    UNREGISTERED = "unregistered"

    @property
    def invariant(self) -> str:
        """``I1`` to ``I8``."""
        return _RULES[self][0]

    @property
    def text(self) -> str:
        return _RULES[self][1]


_RULES = {
    Problem.NO_RECORD: ("I1", "listed id without a task"),
    Problem.NO_MESSAGE: ("I1", "task without a message"),
    Problem.NOT_A_HASH: ("I1", "task that is no hash"),
    Problem.UNREADABLE: ("I1", "message that does not decode, or is another task's"),
    Problem.WRONG_STATE: ("I1", "state that is not that of its list"),
    Problem.WRONG_TYPE: ("I1", "key that holds the wrong type of value"),
    Problem.LISTED_TWICE: ("I2", "task listed more than once"),
    Problem.SEVERAL_PLACES: ("I2", "task in more than one list"),
    Problem.NO_LEASE: ("I3", "active task without a lease"),
    Problem.NOT_ACTIVE: ("I3", "leased task that is not active"),
    Problem.ORPHAN: ("I4", "task in no list"),
    Problem.LEAKED_LOCK: ("I5", "unique lock of a task that is gone, completed, or not its"),
    Problem.UNINDEXED_GROUP: ("I6", "group with members that is not in the list of groups"),
    Problem.EMPTY_GROUP: ("I6", "listed group without members"),
    Problem.LOST_SET: ("I7", "listed aggregation set that is gone"),
    Problem.STALE_SET: ("I7", "aggregation set that nobody works on"),
    Problem.UNREGISTERED: ("I8", "queue that is not in the list of queues"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, as it was verified in Redis in one step.

    ``subject`` is the id of a task, or a name within the queue: of a group, a lock, a key. ``repair`` says what was
    done, or without ``is_healed`` what would be: a dry run changes nothing, and a task in the hands of a worker is
    "left" to it. ``detail`` tells where the subject was found.
    """

    problem: Problem
    queue: str
    subject: str
    repair: str
    detail: str = ""
    is_healed: bool = False

    @property
    def invariant(self) -> str:
        return self.problem.invariant

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.invariant} {self.queue}: {self.problem.text}: {self.subject}{detail}"
            f" -> {self.repair}"
        )
