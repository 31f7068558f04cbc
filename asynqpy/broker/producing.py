"""From new tasks to calls of ``enqueue.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from asynqpy.broker import keys
from asynqpy.broker.batches import Batch, by_key
from asynqpy.broker.exchange import Word
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.scripts import script_call
from asynqpy.errors import AsynqError, DuplicateTaskError, TaskIdConflictError

_STORED, _ID_TAKEN = 1, 0

#: Words of a task in the call: id and message; or those and token, lock key, lock ttl and score.
_PLAIN_WORDS, _ALL_WORDS = 2, 6

#: Most bytes of messages in one script call, unless a single one is larger: other clients wait while Redis reads them.
_MAX_BYTES = 4 * 1024 * 1024


class NewTask(msgspec.Struct, frozen=True, gc=False):
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
    encoded = [task.message.encode() for task in tasks]
    for (queue, state, group), places in by_key(tasks, _entrance):
        script_keys = [_container(queue, state, group), keys.groups(queue)]
        for part in _within_bytes(places, encoded):
            chunk = [tasks[place] for place in part]
            messages = [encoded[place] for place in part]
            args: list[Word] = [keys.task_prefix(queue), state, now_ns, group]
            args += _arguments(state, chunk, messages)
            yield Batch(script_call("enqueue", script_keys, args, _reader(chunk)), part)


def _arguments(state: TaskState, tasks: Sequence[NewTask], messages: Sequence[bytes]) -> list[Word]:
    """How many words each task has, and these: left out is what most tasks have not, where none of these has it."""
    plain = state is TaskState.PENDING and not any(t.token or t.message.unique_key for t in tasks)
    words: list[Word] = [_PLAIN_WORDS if plain else _ALL_WORDS]
    for task, encoded in zip(tasks, messages, strict=True):
        message = task.message
        words += (message.id, encoded)
        if not plain:
            words += (task.token, message.unique_key, task.lock_ttl, task.score)
    return words


def _within_bytes(places: Sequence[int], encoded: Sequence[bytes]) -> Iterator[list[int]]:
    """Consecutive runs of places whose messages have at most ``_MAX_BYTES``; a larger one stands alone."""
    run: list[int] = []
    size = 0
    for place in places:
        size += len(encoded[place])
        if run and size > _MAX_BYTES:
            yield run
            run, size = [], len(encoded[place])
        run.append(place)
    yield run


def _entrance(task: NewTask) -> tuple[str, TaskState, str]:
    # A delayed task remembers its group, and joins it when it is due. Go forgets it, and the task runs by itself.
    group = "" if task.state is TaskState.PENDING else task.message.group_key
    return task.message.queue, task.state, group


def _container(queue: str, state: TaskState, group: str) -> str:
    if state is TaskState.PENDING:
        return keys.pending(queue)
    if state is TaskState.SCHEDULED:
        return keys.scheduled(queue)
    return keys.group_prefix(queue) + group


def _reader(tasks: Sequence[NewTask]) -> Callable[[list[int]], list[AsynqError | None]]:
    def read(codes: list[int]) -> list[AsynqError | None]:
        if codes.count(_STORED) == len(tasks):
            return [None] * len(tasks)
        return [_refusal(t.message, c) for t, c in zip(tasks, codes, strict=True)]

    return read


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
