"""Calls that read tasks, one or a page of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from asynqpy.broker import keys
from asynqpy.broker.consuming import message_of, text
from asynqpy.broker.exchange import Word
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.scripts import Call, command, script_call
from asynqpy.errors import MalformedMessageError

#: Bytes of messages and results that one answer holds, unless a single task has more.
_MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """A task as it is listed.

    ``index`` is its place, 0 the first; in a list that is the next to run. ``message`` is ``None`` where there is
    none that could be read. ``score`` and ``lease`` (unix s) are ``None`` where it has none, ``pending_since`` unix ns.
    """

    id: str
    index: int
    score: float | None
    lease: float | None
    message: TaskMessage | None
    result: bytes | None
    pending_since: int | None
    #: As Redis has them.
    raw_id: bytes
    raw_score: bytes
    raw_message: bytes


_CONTAINERS: Mapping[TaskState, Callable[[str], str]] = {
    TaskState.PENDING: keys.pending,
    TaskState.ACTIVE: keys.active,
    TaskState.SCHEDULED: keys.scheduled,
    TaskState.RETRY: keys.retry,
    TaskState.ARCHIVED: keys.archived,
    TaskState.COMPLETED: keys.completed,
}


def container(queue: str, state: TaskState, group: str) -> str:
    """The key of the list or sorted set that has the tasks of a state."""
    if state is TaskState.AGGREGATING:
        return keys.group_prefix(queue) + group
    return _CONTAINERS[state](queue)


def list_tasks_call(
    queue: str,
    state: TaskState,
    group: str,
    *,
    first: int,
    count: int,
    after: Sequence[Record] = (),
    searched: int = 0,
) -> Call[list[Record] | None]:
    """Up to ``count`` tasks from the place ``first`` on, or those that come after one that was read, wherever it is.

    What is large may come in several answers: a shorter one is the last only if it is empty. In a list, ``after`` are
    looked for within ``searched`` entries before ``first``, unless the first of them is right there; ``None`` if none
    of them is.
    """
    script_keys = [container(queue, state, group), keys.lease(queue)]
    args: list[Word] = [keys.task_prefix(queue), first, count, _MOST_BYTES]
    args += [after[0].raw_score if after else b"", searched, *(it.raw_id for it in after)]

    def read(answer: list[int | bytes]) -> list[Record] | None:
        start, words = int(answer[0]), answer[1:]
        if start < 0:
            return None
        return [_record(queue, start + n, words[6 * n : 6 * n + 6]) for n in range(len(words) // 6)]

    return script_call("admin/list_tasks", script_keys, args, read)


def _record(queue: str, index: int, words: Sequence[int | bytes]) -> Record:
    raw_id, score, lease, data, result, since = (bytes(it) for it in words if isinstance(it, bytes))
    return Record(
        id=text(raw_id),
        index=index,
        score=float(score) if score else None,
        lease=float(lease) if lease else None,
        message=_message(queue, raw_id, data),
        result=result or None,
        pending_since=int(since) if since.isdigit() else None,
        raw_id=raw_id,
        raw_score=score,
        raw_message=data,
    )


def _message(queue: str, raw_id: bytes, data: bytes) -> TaskMessage | None:
    try:
        return message_of(queue, raw_id, data)
    except MalformedMessageError:
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """The hash of one task: what it says of itself."""

    data: bytes
    state: str
    group: str
    result: bytes | None
    pending_since: int | None


def task_call(queue: str, task_id: str) -> Call[Found | None]:
    """Read the hash of a task; ``None`` where there is none."""

    def read(answer: list[bytes | None]) -> Found | None:
        data, state, group, result, since = answer
        if data is None or state is None:
            return None
        in_ns = int(since) if since and since.isdigit() else None
        return Found(data, text(state), text(group or b""), result, in_ns)

    fields = ("msg", "state", "group", "result", "pending_since")
    return command("HMGET", keys.task_prefix(queue) + task_id, *fields, read=read)


def score_call(key: str, task_id: str) -> Call[float | None]:
    """The score of a task in a sorted set, if it is there."""

    def read(answer: bytes | float | None) -> float | None:
        return None if answer is None else float(answer)

    return command("ZSCORE", key, task_id, read=read)
