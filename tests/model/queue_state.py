"""A queue as values: what the reference predicts, and what is read from Redis to compare with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from redis.asyncio import Redis

from asynqpy.broker.messages import TaskMessage
from asynqpy.errors import MalformedMessageError
from tests import redis_state as state

QUEUE = "default"

_PREFIX = f"asynq:{{{QUEUE}}}:"


@dataclass
class Record:
    """The hash of a task; ``message`` is ``None`` where there is none that can be read.

    ``owner`` is what the hash says while the task is active, "" otherwise: only then it means anything.
    """

    message: TaskMessage | None
    state: str
    owner: str = ""
    crashes: int = 0
    result: bytes = b""
    group: str = ""
    token: str = ""
    lock: str = ""

    @property
    def attempt(self) -> bytes:
        """Which attempt to enqueue made the task: clients of this test write its number into the payload."""
        return self.message.payload if self.message else b""


def _sorted_sets() -> dict[str, dict[str, float]]:
    return {name: {} for name in state.SORTED_SETS}


@dataclass
class QueueState:
    """``pending`` has the next to run first; ``sets`` are the sorted sets by name, ``groups`` by group."""

    records: dict[str, Record] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    active: list[str] = field(default_factory=list)
    leases: dict[str, float] = field(default_factory=dict)
    sets: dict[str, dict[str, float]] = field(default_factory=_sorted_sets)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    processed: int = 0
    failed: int = 0

    def differences(self, other: QueueState) -> Iterator[str]:
        """Where the other is not as this one is."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                yield f"{name}: {mine!r} != {theirs!r}"


@dataclass
class Seen:
    """A look at Redis: the queue, the attempts that were set aside as unreadable, and what is unsound (I1-I8)."""

    queue: QueueState
    set_aside: set[bytes]
    breaches: list[str]


async def look(redis: Redis) -> Seen:
    found = await state.dump(redis)
    queue = QueueState()
    for name, value in found.items():
        if name.startswith(_PREFIX):
            _take(queue, name.removeprefix(_PREFIX), name, value)
    queue.active.sort()
    is_registered = QUEUE.encode() in found.get("asynq:queues", ())
    breaches = state.breaches(found, QUEUE, is_registered=is_registered)
    return Seen(queue, set(_set_aside(found)), breaches)


def _set_aside(found: state.Dump) -> Iterator[bytes]:
    for name, value in found.items():
        if name.startswith(f"asynqpy:{{{QUEUE}}}:") and isinstance(value, dict):
            message = _message(value.get(b"msg", b"")) if b"msg" in value else None
            if message is not None:
                yield message.payload


def _take(queue: QueueState, suffix: str, name: str, value: object) -> None:
    kind, _, rest = suffix.partition(":")
    if kind == "t":
        queue.records[rest] = _record(value)
    elif kind == "g":
        queue.groups[rest] = _scores(value)
    elif kind == "unique":
        queue.locks[name] = _text(value)
    elif suffix in queue.sets:
        queue.sets[suffix] = _scores(value)
    elif suffix == "lease":
        queue.leases = _scores(value)
    elif suffix in state.LISTS:
        ids = [_text(raw) for raw in _list(value)]
        setattr(queue, suffix, ids[::-1])
    elif suffix in ("processed", "failed"):
        setattr(queue, suffix, int(_text(value)))
    elif suffix == "paused":
        queue.paused = True


def _record(value: object) -> Record:
    assert isinstance(value, dict)
    fields = {name.decode(): data for name, data in value.items()}
    is_active = fields.get("state") == b"active"
    return Record(
        message=_message(fields.get("msg", b"")),
        state=_text(fields.get("state", b"")),
        owner=_text(fields.get("owner", b"")) if is_active else "",
        crashes=int(fields.get("crashes", 0)),
        result=fields.get("result", b""),
        group=_text(fields.get("group", b"")),
        token=_text(fields.get("enqueue_token", b"")),
        lock=_text(fields.get("unique_key", b"")),
    )


def _message(data: bytes) -> TaskMessage | None:
    try:
        return TaskMessage.decode(data)
    except MalformedMessageError:
        return None


def _list(value: object) -> list[bytes]:
    assert isinstance(value, list)
    return value


def _scores(value: object) -> dict[str, float]:
    assert isinstance(value, dict)
    return {task_id.decode(): float(score) for task_id, score in value.items()}


def _text(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode()
