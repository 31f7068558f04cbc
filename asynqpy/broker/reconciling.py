"""Calls of the scripts that search a queue for damage and put it right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha1

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.consuming import message_of, text
from asynqpy.broker.exchange import Word
from asynqpy.broker.findings import Finding, Problem
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.scripts import Call, script_call
from asynqpy.broker.settling import ARCHIVE_LIMIT
from asynqpy.clock import Clock
from asynqpy.errors import MalformedMessageError

#: Seconds after the end of a lease, or of an aggregation's deadline, for which its holder may still be at work: Go
#: writes both by the clocks of its hosts.
GRACE = 30

#: The repairs of ``reconcile.lua`` that change nothing.
_LEFT = "left"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A task that looked wrong, and what was seen of it that ``reconcile.lua`` cannot read for itself.

    ``sha`` is that of a message that does not decode. ``score`` (unix s) is what the message names for ``state``, and
    ``group`` the message's; ``names`` are those of groups and aggregation sets that list the task, two at most.
    """

    id: bytes
    in_pending: bool = False
    sha: str = ""
    state: bytes = b""
    score: int | None = None
    group: bytes = b""
    names: tuple[bytes, ...] = ()

    def merged(self, other: Suspect) -> Suspect:
        """The same task, seen twice."""
        known = self if self.state else other
        return replace(
            known,
            in_pending=self.in_pending or other.in_pending,
            sha=self.sha or other.sha,
            names=tuple(dict.fromkeys((*self.names, *other.names))),
        )

    def words(self) -> Iterator[Word]:
        yield from (self.id, "1" if self.in_pending else "", self.sha, self.state)
        yield "" if self.score is None else self.score
        yield self.group
        names = [b"g:" + name for name in self.names[:2]]
        yield from names
        yield from [""] * (2 - len(names))


def suspect_of(queue: str, task_id: bytes, data: bytes | None, state: bytes | None) -> Suspect:
    """What the record of a task says about where it belongs."""
    message = readable(queue, task_id, data or b"")
    if message is None:
        return Suspect(task_id, sha=digest(data or b""), state=state or b"")
    score = None
    if state == b"archived":
        score = message.last_failed_at or None
    elif state == b"completed":
        score = message.completed_at + message.retention
    return Suspect(task_id, state=state or b"", score=score, group=message.group_key.encode())


def readable(queue: str, task_id: bytes, data: bytes) -> TaskMessage | None:
    """The message of this very task, or ``None`` for anything else."""
    try:
        return message_of(queue, task_id, data)
    except MalformedMessageError:
        return None


def digest(data: bytes) -> str:
    """A message by which a script knows it again."""
    return sha1(data, usedforsecurity=False).hexdigest()


def reconcile_call(
    queue: str, suspects: Sequence[Suspect], clock: Clock, *, heal: bool
) -> Call[list[Finding]]:
    """Verify at most ``MAX_BATCH`` suspects, and heal what is wrong with them or tell what it would be."""
    now = int(clock.now())
    args: list[Word] = [
        keys.task_prefix(queue),
        keys.group_prefix(queue),
        keys.quarantine_prefix(queue),
        _mode(heal),
        now,
        clock.now_ns(),
        now - GRACE,
        ARCHIVE_LIMIT,
        *(word for suspect in suspects for word in suspect.words()),
    ]
    script_keys = [
        keys.pending(queue),
        keys.active(queue),
        keys.lease(queue),
        keys.scheduled(queue),
        keys.retry(queue),
        keys.archived(queue),
        keys.completed(queue),
        keys.groups(queue),
        keys.aggregation_sets(queue),
        keys.quarantine(queue),
    ]

    def read(answer: list[bytes]) -> list[Finding]:
        words = [text(word) for word in answer]
        told = zip(suspects, words[::3], words[1::3], words[2::3], strict=True)
        return [
            Finding(
                Problem(problem),
                queue,
                text(suspect.id),
                repair.replace("_", " "),
                detail,
                heal and repair != _LEFT,
            )
            for suspect, problem, repair, detail in told
            if problem
        ]

    return script_call("reconcile", script_keys, args, read)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Ids of a part of a container, and those of them that look wrong."""

    ids: Sequence[bytes]
    wrong: Sequence[bytes]


def survey_list_call(queue: str, key: str, state: TaskState, start: int) -> Call[Surveyed]:
    """Look through ``MAX_BATCH`` ids of a list from an index on."""
    args: list[Word] = [keys.task_prefix(queue), str(state), start, start + MAX_BATCH - 1]
    return script_call("survey_list", [key, keys.lease(queue)], args, _surveyed)


def survey_sorted_call(
    queue: str, key: str | bytes, state: TaskState, ids: Sequence[bytes], group: bytes = b""
) -> Call[Surveyed]:
    """Look through ids of a sorted set."""
    args: list[Word] = [keys.task_prefix(queue), str(state), group, *ids]
    return script_call("survey_sorted_set", [key], args, _surveyed)


def _surveyed(answer: tuple[list[bytes], list[bytes]]) -> Surveyed:
    return Surveyed(*answer)


@dataclass(frozen=True, slots=True)
class SurveyedTasks:
    """Tasks that are not where their state says, or that only the lists can tell.

    ``pending`` are pairs of an id and the ``pending_since`` as stored; ``aggregating`` are not in their groups.
    """

    wrong: Sequence[bytes]
    pending: Sequence[tuple[bytes, bytes]]
    aggregating: Sequence[bytes]


def survey_tasks_call(queue: str, ids: Sequence[bytes]) -> Call[SurveyedTasks]:
    """Look where at most ``MAX_BATCH`` tasks are listed."""
    script_keys = [
        keys.lease(queue),
        keys.scheduled(queue),
        keys.retry(queue),
        keys.archived(queue),
        keys.completed(queue),
    ]

    def read(answer: tuple[list[bytes], list[bytes], list[bytes]]) -> SurveyedTasks:
        wrong, pending, aggregating = answer
        return SurveyedTasks(
            wrong, list(zip(pending[::2], pending[1::2], strict=True)), aggregating
        )

    args: list[Word] = [keys.task_prefix(queue), keys.group_prefix(queue), *ids]
    return script_call("survey_tasks", script_keys, args, read)


def reindex_groups_call(
    queue: str, names: Sequence[bytes], *, heal: bool
) -> Call[tuple[list[Finding], list[bytes]]]:
    """See that ``groups`` lists exactly those with members; answers too which names are aggregation sets."""
    repairs = {"unindexed_group": "put in groups", "empty_group": "taken out of groups"}

    def read(answer: list[bytes]) -> tuple[list[Finding], list[bytes]]:
        told = [(name, text(word)) for name, word in zip(names, answer, strict=True)]
        found = [
            Finding(Problem(word), queue, text(name), repairs[word], is_healed=heal)
            for name, word in told
            if word in repairs
        ]
        return found, [name for name, word in told if word == "set"]

    args: list[Word] = [keys.task_prefix(queue), keys.group_prefix(queue), _mode(heal), *names]
    script_keys = [keys.groups(queue), keys.aggregation_sets(queue)]
    return script_call("reindex_groups", script_keys, args, read)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was wrong with an aggregation set, if anything; how many of its tasks went back, and how many are left."""

    problem: Problem | None
    moved: int
    left: int


def reclaim_set_call(queue: str, name: bytes, now: float, *, heal: bool) -> Call[Reclaimed]:
    """Give at most ``MAX_BATCH`` tasks of a set ``<group>:<id>`` that nobody works on back to their group."""
    prefix, group = keys.group_prefix(queue).encode(), name.rpartition(b":")[0]

    def read(answer: tuple[bytes, int, int]) -> Reclaimed:
        problem, moved, left = answer
        return Reclaimed(Problem(text(problem)) if problem else None, moved, left)

    script_keys: list[Word] = [
        keys.aggregation_sets(queue),
        prefix + name,
        prefix + group,
        keys.groups(queue),
    ]
    args: list[Word] = [group, int(now) - GRACE, _mode(heal), MAX_BATCH]
    return script_call("reclaim_set", script_keys, args, read)


@dataclass(frozen=True, slots=True)
class Locks:
    """Findings about locks, and the keys of those that are none, being no strings."""

    findings: Sequence[Finding]
    wrong_types: Sequence[bytes]


def release_leaked_locks_call(queue: str, locks: Sequence[bytes], *, heal: bool) -> Call[Locks]:
    """Delete locks whose task is gone, completed, or does not name them."""

    def read(answer: list[bytes]) -> Locks:
        told = list(zip(locks, answer[::2], answer[1::2], strict=True))
        found = [
            Finding(
                Problem.LEAKED_LOCK,
                queue,
                text(lock.partition(b"}:")[2]),
                "deleted",
                f"held by {text(holder)}",
                heal,
            )
            for lock, word, holder in told
            if word == b"leaked_lock"
        ]
        return Locks(found, [lock for lock, word, _ in told if word == b"wrong_type"])

    args = [keys.task_prefix(queue), _mode(heal)]
    return script_call("release_leaked_locks", locks, args, read)


def _mode(heal: bool) -> str:
    return "heal" if heal else "dry"
