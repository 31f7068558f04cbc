"""From new tasks to calls of ``enqueue.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from asynqpy.broker import keys
from asynqpy.broker.batches import Batch, by_key
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.scripts import Word, script_call
from asynqpy.errors import AsynqError, DuplicateTaskError, TaskIdConflictError

_STORED, _ID_TAKEN = 1, 0


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task on its way into Redis.

    ``score`` is the due time of a scheduled task or the time of joining a group, unix s. ``lock_ttl`` (s) goes with
    ``message.unique_key``. ``token`` is new for each attempt to enqueue under an id of the caller's choice, and empty
    for an id that was made for this attempt.
    """

    message: TaskMessage
    state: TaskState = TaskState.PENDING
    score: int = 0
    lock_ttl: int = 0
    token: str = ""


def enqueue_batches(tasks: Sequence[NewTask], now_ns: int) -> Iterator[Batch[AsynqError | None]]:
    """Calls that answer per task: ``None`` stored, or why it was refused."""
    for (queue, state, group), places in by_key(tasks, _entrance):
        chunk = [tasks[place] for place in places]
        args: list[Word] = [keys.task_prefix(queue), state, now_ns, group]
        for task in chunk:
            message = task.message
            args += (
                message.id,
                message.encode(),
                task.token,
                message.unique_key,
                task.lock_ttl,
                task.score,
            )
        script_keys = [_container(queue, state, group), keys.groups(queue)]
        yield Batch(script_call("enqueue", script_keys, args, _reader(chunk)), places)


def _entrance(task: NewTask) -> tuple[str, TaskState, str]:
    group = task.message.group_key if task.state is TaskState.AGGREGATING else ""
    return task.message.queue, task.state, group


def _container(queue: str, state: TaskState, group: str) -> str:
    if state is TaskState.PENDING:
        return keys.pending(queue)
    if state is TaskState.SCHEDULED:
        return keys.scheduled(queue)
    return keys.group_prefix(queue) + group


def _reader(tasks: Sequence[NewTask]) -> Callable[[list[int]], list[AsynqError | None]]:
    return lambda codes: [_refusal(t.message, c) for t, c in zip(tasks, codes, strict=True)]


def _refusal(message: TaskMessage, code: int) -> AsynqError | None:
    if code == _STORED:
        return None
    if code == _ID_TAKEN:
        return TaskIdConflictError(
            f"queue {message.queue!r} already has a task with the id {message.id!r}"
        )
    return DuplicateTaskError(
        f"queue {message.queue!r} already has a {message.type!r} task with this payload"
    )
