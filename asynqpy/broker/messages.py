"""The records of the wire, and the only module that knows protobuf (schema: ``protos/asynq.proto``).

Go reads what is written here and the other way round; WIRE vectors V1-V8 are tests of this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.errors import MalformedMessageError

M = TypeVar("M", bound=Message)

INT32_MAX = 2**31 - 1

#: Longest error text kept in a message, in characters. Each retry rewrites the whole message.
ERROR_TEXT_LIMIT = 2_000

#: Go's zero time, the wire's "never": seconds before 1970. An absent Timestamp would be read as 1970.
_NEVER_SECONDS = -62_135_596_800

#: Fields that most tasks never have; of the same name on the wire.
_SELDOM = (
    "retried",
    "error_msg",
    "deadline",
    "unique_key",
    "last_failed_at",
    "retention",
    "completed_at",
    "group_key",
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TaskState(StrEnum):
    """The seven states of a task; values are the wire's strings, which name the container too."""

    ACTIVE = "active"
    PENDING = "pending"
    SCHEDULED = "scheduled"
    RETRY = "retry"
    ARCHIVED = "archived"
    COMPLETED = "completed"
    AGGREGATING = "aggregating"


class TaskMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One task as the wire stores it (field ``msg`` of the task hash).

    Durations are whole seconds, instants whole Unix seconds, 0 meaning none. An absent payload and an empty one are the
    same on the wire and both read as ``b""``.
    """

    type: str
    id: str
    payload: bytes = b""
    queue: str = "default"
    max_retry: int = 0
    retried: int = 0
    error_msg: str = ""
    timeout: int = 0
    deadline: int = 0
    unique_key: str = ""
    last_failed_at: int = 0
    retention: int = 0
    completed_at: int = 0
    group_key: str = ""
    headers: dict[str, str] = {}

    def failed(self, error: str, now: float, *, counted: bool) -> TaskMessage:
        """The message after a failure; ``counted`` says whether it used up a retry."""
        return msgspec.structs.replace(
            self,
            error_msg=wire_text(error),
            last_failed_at=int(now),
            retried=min(self.retried + counted, INT32_MAX),
        )

    def completed(self, now: float) -> TaskMessage:
        """The message after a success that is retained."""
        return msgspec.structs.replace(self, completed_at=int(now))

    def encode(self) -> bytes:
        """Bytes as Go writes them. Raises ``ValueError`` for text that is not valid UTF-8."""
        if (
            self.deadline
            or self.retention
            or self.unique_key
            or self.group_key
            or self.headers
            or self.retried
            or self.error_msg
            or self.last_failed_at
            or self.completed_at
            or len(self.id) > _LONGEST_SHORT
            # The caches below are not to fill the memory.
            or len(self.type) > _LONGEST_SHORT
            or len(self.queue) > _LONGEST_SHORT
            or not self.id.isascii()
        ):
            return self.encode_whole()
        # Of most messages only payload and id are new; the rest is that of others of their type and queue.
        payload, id_tag = self.payload, _ID_TAGS[len(self.id)]
        payload_tag = _payload_tag(len(payload)) if payload else b""
        rest = _queue_and_limits(self.queue, self.max_retry, self.timeout)
        return b"".join(
            (_type_field(self.type), payload_tag, payload, id_tag, self.id.encode(), rest)
        )

    def encode_whole(self) -> bytes:
        """The same bytes, all of them by protobuf."""
        # What is not set costs as much as what is, and most messages have these alone.
        message = pb.TaskMessage(
            type=self.type,
            payload=self.payload,
            id=self.id,
            queue=self.queue,
            retry=self.max_retry,
            timeout=self.timeout,
        )
        for name in _SELDOM:
            if value := getattr(self, name):
                setattr(message, name, value)
        if self.headers:
            message.headers.update(self.headers)
        # In sorted order, headers give the same bytes each time: settlements sent again are known by them.
        return message.SerializeToString(deterministic=len(self.headers) > 1)

    @classmethod
    def decode(cls, data: bytes) -> TaskMessage:
        """Read what Go or we wrote. Raises ``MalformedMessageError`` for anything that is not a task."""
        message = _parse(pb.TaskMessage(), data)
        task_type, task_id, queue = message.type, message.id, message.queue
        if not task_type or not task_id or not queue:
            raise MalformedMessageError("a task message without type, id or queue")
        return cls(
            type=task_type,
            payload=message.payload,
            id=task_id,
            queue=queue,
            max_retry=message.retry,
            retried=message.retried,
            error_msg=message.error_msg,
            timeout=message.timeout,
            deadline=message.deadline,
            unique_key=message.unique_key,
            last_failed_at=message.last_failed_at,
            retention=message.retention,
            completed_at=message.completed_at,
            group_key=message.group_key,
            headers=dict(message.headers) if message.headers else {},
        )


#: Longest text whose length protobuf writes in one byte.
_LONGEST_SHORT = 0x7F

#: What stands before an id (field 3, bytes follow: 3 << 3 | 2), by its length. What is not set is left out.
_ID_TAGS = [b"", *(bytes([3 << 3 | 2, length]) for length in range(1, _LONGEST_SHORT + 1))]


@lru_cache(maxsize=1_024)
def _payload_tag(length: int) -> bytes:
    """What stands before a payload: field 2, bytes follow; their number, seven bits a byte, the lowest first."""
    tag = bytearray([2 << 3 | 2])
    while length > 0x7F:
        tag.append(length & 0x7F | 0x80)
        length >>= 7
    tag.append(length)
    return bytes(tag)


@lru_cache(maxsize=512)
def _type_field(task_type: str) -> bytes:
    return pb.TaskMessage(type=task_type).SerializeToString()


@lru_cache(maxsize=512)
def _queue_and_limits(queue: str, max_retry: int, timeout: int) -> bytes:
    return pb.TaskMessage(queue=queue, retry=max_retry, timeout=timeout).SerializeToString()


def wire_text(text: str) -> str:
    """Error text fit for the wire: valid UTF-8 (proto3 refuses the rest, and the write with it), bounded."""
    return text[:ERROR_TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")


def edited(data: bytes, changes: Mapping[str, Any]) -> bytes:
    """A message with other values of some fields of ``TaskMessage``; what nobody here knows stays in it.

    Raises ``MalformedMessageError`` for what is no task, ``ValueError`` for values that do not fit.
    """
    TaskMessage.decode(data)
    message = _parse(pb.TaskMessage(), data)
    for name, value in changes.items():
        if name == "headers":
            message.headers.clear()
            message.headers.update(value)
        else:
            setattr(message, name, value)
    return message.SerializeToString(deterministic=len(message.headers) > 1)


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the CLI and asynqmon show it. ``status``: ``active``, ``stopped`` or ``closed``."""

    host: str
    pid: int
    server_id: str
    concurrency: int
    queues: Mapping[str, int]
    strict_priority: bool = False
    status: str
    start_time: datetime
    active_worker_count: int

    @property
    def owner(self) -> str:
        """``<host>:<pid>:<server id>``: names the server in the keys of its presence, and in the tasks it holds."""
        return f"{self.host}:{self.pid}:{self.server_id}"

    def encode(self) -> bytes:
        return pb.ServerInfo(
            host=self.host,
            pid=self.pid,
            server_id=self.server_id,
            concurrency=self.concurrency,
            queues=self.queues,
            strict_priority=self.strict_priority,
            status=self.status,
            start_time=_timestamp(self.start_time),
            active_worker_count=self.active_worker_count,
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> ServerInfo:
        info = _parse(pb.ServerInfo(), data)
        return cls(
            host=info.host,
            pid=info.pid,
            server_id=info.server_id,
            concurrency=info.concurrency,
            queues=dict(info.queues),
            strict_priority=info.strict_priority,
            status=info.status,
            start_time=_instant(info.start_time) or _EPOCH,
            active_worker_count=info.active_worker_count,
        )


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task that runs now. ``deadline`` is the effective one, never unset."""

    host: str
    pid: int
    server_id: str
    task_id: str
    task_type: str
    task_payload: bytes
    queue: str
    start_time: datetime
    deadline: datetime

    def encode(self) -> bytes:
        return pb.WorkerInfo(
            host=self.host,
            pid=self.pid,
            server_id=self.server_id,
            task_id=self.task_id,
            task_type=self.task_type,
            task_payload=self.task_payload,
            queue=self.queue,
            start_time=_timestamp(self.start_time),
            deadline=_timestamp(self.deadline),
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> WorkerInfo:
        info = _parse(pb.WorkerInfo(), data)
        return cls(
            host=info.host,
            pid=info.pid,
            server_id=info.server_id,
            task_id=info.task_id,
            task_type=info.task_type,
            task_payload=info.task_payload,
            queue=info.queue,
            start_time=_instant(info.start_time) or _EPOCH,
            deadline=_instant(info.deadline) or _EPOCH,
        )


class SchedulerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A periodic task of a scheduler. ``None`` is the wire's "never"."""

    id: str
    spec: str
    task_type: str
    task_payload: bytes
    enqueue_options: Sequence[str]
    next_enqueue_time: datetime | None
    prev_enqueue_time: datetime | None

    def encode(self) -> bytes:
        return pb.SchedulerEntry(
            id=self.id,
            spec=self.spec,
            task_type=self.task_type,
            task_payload=self.task_payload,
            enqueue_options=self.enqueue_options,
            next_enqueue_time=_timestamp(self.next_enqueue_time),
            prev_enqueue_time=_timestamp(self.prev_enqueue_time),
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> SchedulerEntry:
        entry = _parse(pb.SchedulerEntry(), data)
        return cls(
            id=entry.id,
            spec=entry.spec,
            task_type=entry.task_type,
            task_payload=entry.task_payload,
            enqueue_options=list(entry.enqueue_options),
            next_enqueue_time=_instant(entry.next_enqueue_time),
            prev_enqueue_time=_instant(entry.prev_enqueue_time),
        )


class SchedulerEnqueueEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One tick of a scheduler entry: the task it enqueued, and when."""

    task_id: str
    enqueue_time: datetime

    def encode(self) -> bytes:
        return pb.SchedulerEnqueueEvent(
            task_id=self.task_id, enqueue_time=_timestamp(self.enqueue_time)
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> SchedulerEnqueueEvent:
        event = _parse(pb.SchedulerEnqueueEvent(), data)
        return cls(task_id=event.task_id, enqueue_time=_instant(event.enqueue_time) or _EPOCH)


def _parse(message: M, data: bytes) -> M:
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError) as error:  # protobuf in pure Python: UnicodeDecodeError
        name = message.DESCRIPTOR.name
        raise MalformedMessageError(f"{len(data)} bytes are no {name}: {error}") from error
    return message


def _timestamp(instant: datetime | None) -> Timestamp:
    if instant is None:
        return Timestamp(seconds=_NEVER_SECONDS)
    elapsed = instant - _EPOCH
    return Timestamp(
        seconds=elapsed.days * 86_400 + elapsed.seconds, nanos=elapsed.microseconds * 1_000
    )


def _instant(stamp: Timestamp) -> datetime | None:
    if stamp.seconds <= _NEVER_SECONDS:
        return None
    try:
        return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)
    except OverflowError as error:
        raise MalformedMessageError(f"{stamp.seconds} s after 1970 is no date") from error
