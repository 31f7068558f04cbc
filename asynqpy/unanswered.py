"""Enqueues whose answers were lost: tried again, they must not take their own success for somebody else's."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha1
from typing import TypeAlias

import msgspec

from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.producing import NewTask
from asynqpy.errors import BrokerError, DuplicateTaskError, TaskIdConflictError

#: Seconds that a lost attempt is remembered: who tries again does so soon, and later it may well be another task.
_REMEMBERED = 120.0

#: Most lost attempts to remember; the oldest are forgotten first.
_LIMIT = 10_000

_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What tells the same task again, and how it was sent."""

    task_id: str
    token: str
    state: TaskState
    digest: bytes
    until: float


class Unanswered:
    """Remembers attempts under an id of the caller's, or under a unique lock, that got no answer or not a full one.

    The same task again goes under the id and the token of that attempt, by which ``enqueue.lua`` knows it; each attempt
    is taken up once. A task with neither cannot be told from another of the same type and payload.
    """

    def __init__(self) -> None:
        self._lost: OrderedDict[_Key, _Attempt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lost)

    def resume(self, task: NewTask) -> NewTask:
        """The task as the lost attempt sent it, if there was one; else as it is."""
        key = _key(task) if self._lost else None
        lost = self._lost.get(key) if key is not None else None
        if key is None or lost is None:
            return task
        if time.monotonic() > lost.until:
            del self._lost[key]
            return task
        if (task.state, _digest(task.message)) != (lost.state, lost.digest):
            return task
        del self._lost[key]
        message = msgspec.structs.replace(task.message, id=lost.task_id)
        return msgspec.structs.replace(task, message=message, token=lost.token)

    def note(self, task: NewTask, answer: Exception | None) -> None:
        """Take in what came of an attempt."""
        # Also what was refused: it may be the repetition of one that is stored, and has been taken up by it.
        is_lost = isinstance(answer, BrokerError)
        if not is_lost and not self._lost:
            return
        key = _key(task)
        if key is None:
            return
        if is_lost:
            self._remember(key, task)
        elif answer is None or isinstance(answer, DuplicateTaskError | TaskIdConflictError):
            self._lost.pop(key, None)

    def _remember(self, key: _Key, task: NewTask) -> None:
        now = time.monotonic()
        earlier = self._lost.get(key)
        if earlier is not None and now <= earlier.until:
            return  # the first of several is the one that may have been stored
        self._lost.pop(key, None)
        message = task.message
        self._lost[key] = _Attempt(
            message.id, task.token, task.state, _digest(message), now + _REMEMBERED
        )
        if len(self._lost) > _LIMIT:
            self._lost.popitem(last=False)


def _key(task: NewTask) -> _Key | None:
    message = task.message
    if task.token:
        return message.queue, message.id
    return (message.queue, message.unique_key) if message.unique_key else None


def _digest(message: TaskMessage) -> bytes:
    """Of all that the caller said, but for an id that was made for the attempt."""
    return sha1(msgspec.structs.replace(message, id="").encode(), usedforsecurity=False).digest()
