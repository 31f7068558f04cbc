"""Enqueues whose answers were lost: tried again, they must not take their own success for somebody else's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TypeAlias

import msgspec

from asynqpy.broker.producing import NewTask
from asynqpy.errors import AsynqError, BrokerUnavailableError

#: Most lost attempts to remember; the oldest are forgotten first.
_LIMIT = 10_000

_Key: TypeAlias = tuple[str, str]


class Unanswered:
    """Remembers attempts under an id of the caller's, or under a unique lock, that got no answer.

    The same task again goes under the id and the token of that attempt, by which ``enqueue.lua`` knows it. A task with
    neither cannot be told from another of the same type and payload.
    """

    def __init__(self) -> None:
        self._lost: OrderedDict[_Key, NewTask] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lost)

    def resume(self, task: NewTask) -> NewTask:
        """The task as the lost attempt sent it, if there was one; else as it is."""
        if not self._lost or (key := _key(task)) is None:
            return task
        lost = self._lost.get(key)
        if lost is None:
            return task
        message = task.message
        if not task.token:  # its id was made for this attempt
            message = msgspec.structs.replace(message, id=lost.message.id)
        if message != lost.message:
            return task
        return replace(task, message=message, token=lost.token)

    def note(self, task: NewTask, answer: AsynqError | None) -> None:
        """Take in what came of an attempt."""
        is_lost = isinstance(answer, BrokerUnavailableError)
        if (not is_lost and not self._lost) or (key := _key(task)) is None:
            return
        self._lost.pop(key, None)
        if is_lost:
            self._lost[key] = task
            if len(self._lost) > _LIMIT:
                self._lost.popitem(last=False)


def _key(task: NewTask) -> _Key | None:
    message = task.message
    if task.token:
        return message.queue, message.id
    return (message.queue, message.unique_key) if message.unique_key else None
