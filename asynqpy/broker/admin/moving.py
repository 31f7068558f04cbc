"""Calls of the script that moves tasks from one state to another, or deletes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.consuming import text
from asynqpy.broker.exchange import Word
from asynqpy.broker.messages import TaskState
from asynqpy.broker.scripts import Call, script_call
from asynqpy.broker.settling import ARCHIVE_LIMIT, ARCHIVE_TTL
from asynqpy.clock import Clock

#: Entries of ``pending`` that one call may walk past, some 10 ns each.
_WALKED = 500_000


class Target(StrEnum):
    """Where tasks are moved to."""

    PENDING = "pending"
    ARCHIVED = "archived"
    SCHEDULED = "scheduled"
    #: They stay where they are: their message or their time changes.
    KEPT = "kept"
    DELETED = "deleted"


class Verdict(StrEnum):
    """What became of a task that was to be moved; any other answer is the state from which it was not."""

    MOVED = "moved"
    GONE = "gone"
    CHANGED = "changed"
    UNLISTED = "unlisted"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Move:
    """A task to be moved. ``index`` is where it was seen in ``pending``, counted from the next to run.

    ``at`` (unix s) is when it is to run. With ``message`` it is moved only if it has ``expected`` yet, and gets that.
    """

    id: str | bytes
    index: int | None = None
    at: int | None = None
    expected: bytes = b""
    message: bytes = b""


def move_tasks_call(
    queue: str,
    target: Target,
    moves: Sequence[Move],
    clock: Clock,
    *,
    state: TaskState | None = None,
    group: str = "",
) -> Call[list[str]]:
    """Move up to ``MAX_BATCH`` tasks, those in ``state`` and ``group`` only if they are given; a ``Verdict`` each."""
    now = int(clock.now())
    places = (keys.pending, keys.scheduled, keys.retry, keys.archived, keys.completed, keys.groups)
    args: list[Word] = [keys.task_prefix(queue), keys.group_prefix(queue), target, state or ""]
    args += [group, now, clock.now_ns(), now - ARCHIVE_TTL, ARCHIVE_LIMIT, MAX_BATCH, _WALKED]
    for move in moves:
        args += [move.id, _word(move.index), _word(move.at), move.expected, move.message]

    def read(answer: list[bytes]) -> list[str]:
        return [text(it) for it in answer]

    return script_call("admin/move_tasks", [key(queue) for key in places], args, read)


def _word(number: int | None) -> Word:
    return "" if number is None else number
