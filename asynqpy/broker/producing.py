"""From new tasks to calls of ``enqueue.lua``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH, Batch, by_key
from asynqpy.broker.exchange import Told, Word
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.scripts import Call, command, nothing, script_call
from asynqpy.errors import (
    AsynqError,
    BrokerError,
    BrokerFullError,
    BrokerUnavailableError,
    DuplicateTaskError,
    NotReplicatedError,
    TaskIdConflictError,
)

logger = logging.getLogger("asynqpy.broker")

_STORED, _ID_TAKEN = 1, 0

#: Words of a task in the call: id and message; or those and token, lock key, lock ttl and score.
_PLAIN_WORDS, _ALL_WORDS = 2, 6

#: Most bytes of messages in one script call, unless a single one is larger: other clients wait while Redis reads them.
_MAX_BYTES = 4 * 1024 * 1024

#: Fewest tasks of one part, where many are sent in parts.
_FEWEST = 16

#: Seconds after which a producer registers its queues again: somebody may have removed one meanwhile.
_REGISTER_AGAIN = 60.0

#: Seconds between two lines in the log about a queue that could not be registered.
_SAY_AGAIN = 30.0

#: Told the places of some tasks and the answer to each: ``None`` stored, or why it was refused.
Answered: TypeAlias = Callable[[Sequence[int], Sequence[AsynqError | None]], None]


class NewTask(msgspec.Struct, frozen=True, gc=False):
    """A task on its way into Redis.

    ``score`` is the due time of a scheduled task or the time of joining a group, unix s. ``lock_ttl`` (s) goes with
    ``message.unique_key``. ``token`` is new for each attempt to enqueue under an id of the caller's choice, and empty
    for an id that was made for this attempt. ``min_replicas`` are to have it before it counts as stored.
    """

    message: TaskMessage
    state: TaskState = TaskState.PENDING
    score: int = 0
    lock_ttl: int = 0
    token: str = ""
    min_replicas: int = 0


class Registrations:
    """Which queues stand in the list of queues, as far as one producer knows."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._silent_until: dict[str, float] = {}
        self._doubts = 0

    def call(self, queues: set[str], doubts: int) -> list[Call[None]]:
        """The call that puts these queues there, if need be. ``doubts`` are the runner's."""
        if self._doubts != doubts:
            self._doubts = doubts
            self._until.clear()
        now = time.monotonic()
        if all(self._until.get(queue, 0.0) > now for queue in queues):
            return []
        return [command("SADD", keys.QUEUES, *sorted(queues), read=nothing)]

    def note(self, queues: set[str], answer: object, doubts: int, *, has_stored: bool) -> None:
        """Take in what Redis answered to the call, and whether it stored any task beside it.

        What was known before ``doubts`` goes with it.
        """
        self._doubts = doubts
        if isinstance(answer, BrokerFullError | BrokerUnavailableError):
            if has_stored:  # of a cluster, on another node than the list of queues
                self._warn(queues, answer)
        elif isinstance(answer, BrokerError):
            logger.error("queues %s are in no list of queues: %s", sorted(queues), answer)
        else:
            self._until |= dict.fromkeys(queues, time.monotonic() + _REGISTER_AGAIN)

    def _warn(self, queues: set[str], error: BrokerError) -> None:
        now = time.monotonic()
        unsaid = sorted(queue for queue in queues if self._silent_until.get(queue, 0.0) <= now)
        if unsaid:
            self._silent_until |= dict.fromkeys(unsaid, now + _SAY_AGAIN)
            text = "queues %s have tasks, but are in no list of queues until the next enqueue: %s"
            logger.warning(text, unsaid, error)


def enqueue_batches(
    tasks: Sequence[NewTask], now_ns: int, parts: int = 1
) -> list[Batch[AsynqError | None]]:
    """Calls that answer per task: ``None`` stored, or why it was refused. Order is kept within a container.

    Where a container gets many, they are cut into about so many ``parts``.
    """
    encoded = [task.message.encode() for task in tasks]
    size = min(max(math.ceil(len(tasks) / parts), _FEWEST), MAX_BATCH)
    cut = [
        (way, part)
        for way, places in by_key(tasks, entrance, size)
        for part in _within_bytes(places, encoded)
    ]
    leads = len(cut) > len({way for way, _ in cut})
    batches: list[Batch[AsynqError | None]] = []
    for (queue, state, group), part in cut:
        script_keys = [_container(queue, state, group), keys.groups(queue)]
        chunk = [tasks[place] for place in part]
        args: list[Word] = [keys.task_prefix(queue), state, now_ns, group]
        args += _arguments(state, chunk, [encoded[place] for place in part])
        call = script_call("enqueue", script_keys, args, _reader(chunk), leads=leads)
        batches.append(Batch(call, part))
        leads = False  # by the first of them the script is there for all
    return batches


def early(batches: Sequence[Batch[AsynqError | None]], before: int, answered: Answered) -> Told:
    """Tells ``answered`` of the tasks of each batch; so many other calls stand before theirs."""

    def told(place: int, answers: Any) -> None:
        if place >= before:
            answered(batches[place - before].places, answers)

    return told


def entrance(task: NewTask) -> tuple[str, TaskState, str]:
    """Which container a task comes into: queue, state and group."""
    # A delayed task remembers its group, and joins it when it is due. Go forgets it, and the task runs by itself.
    group = "" if task.state is TaskState.PENDING else task.message.group_key
    return task.message.queue, task.state, group


def wait_call(min_replicas: int, seconds: float) -> Call[int]:
    """Waits, at most so long, until so many replicas have what the calls before it wrote; answers how many do."""
    call = command("WAIT", min_replicas, max(1, round(seconds * 1_000)), read=int)
    return replace(call, trails=True)


def not_replicated(
    task: NewTask, confirmed: int | BrokerError, seconds: float
) -> NotReplicatedError:
    """Of a task that is stored; ``confirmed`` is the answer of ``wait_call``."""
    message, wanted = task.message, task.min_replicas
    stored = f"task {message.id} of queue {message.queue!r} is stored"
    names: dict[str, Any] = {"task_id": message.id, "queue": message.queue, "wanted": wanted}
    if isinstance(confirmed, BrokerError):
        text = f"{stored}, but whether replicas have it is not known: {confirmed}"
        error = NotReplicatedError(text, **names)
        error.__cause__ = confirmed
        return error
    text = f"{stored}, but {confirmed} of {wanted} replicas confirmed it within {seconds:g} s"
    return NotReplicatedError(text, **names, confirmed=confirmed)


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
    if sum([len(encoded[place]) for place in places]) <= _MAX_BYTES:
        yield list(places)
        return
    run: list[int] = []
    size = 0
    for place in places:
        size += len(encoded[place])
        if run and size > _MAX_BYTES:
            yield run
            run, size = [], len(encoded[place])
        run.append(place)
    yield run


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
