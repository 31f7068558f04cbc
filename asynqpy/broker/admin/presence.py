"""Calls that tell who is there: servers and what they run, schedulers and what they enqueue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from asynqpy.broker import keys
from asynqpy.broker.messages import (
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    WorkerInfo,
)
from asynqpy.broker.scripts import Call, command
from asynqpy.errors import MalformedMessageError

T = TypeVar("T")


def present_call(listed_in: str, now: float) -> Call[list[bytes]]:
    """The keys of those whose presence has not run out, the ones that go first ahead."""
    return command("ZRANGEBYSCORE", listed_in, int(now), "+inf", read=list)


def server_call(key: bytes) -> Call[ServerInfo | None]:
    def read(data: bytes | None) -> ServerInfo | None:
        return None if data is None else _decoded(ServerInfo.decode, data)

    return command("GET", key, read=read)


def workers_call(key: bytes) -> Call[list[WorkerInfo]]:
    return command("HVALS", key, read=lambda answer: _readable(WorkerInfo.decode, answer))


def scheduler_entries_call(key: bytes) -> Call[list[SchedulerEntry]]:
    return command(
        "LRANGE", key, 0, -1, read=lambda answer: _readable(SchedulerEntry.decode, answer)
    )


def scheduler_events_call(
    entry_id: str, first: int, count: int
) -> Call[list[SchedulerEnqueueEvent]]:
    """What an entry has enqueued, the latest first."""
    words = ("ZREVRANGE", keys.scheduler_history(entry_id), first, first + count - 1)
    return command(*words, read=lambda answer: _readable(SchedulerEnqueueEvent.decode, answer))


def _readable(decode: Callable[[bytes], T], answer: Sequence[bytes]) -> list[T]:
    """What can be read; whoever writes it writes it anew every few seconds."""
    return [it for data in answer if (it := _decoded(decode, data)) is not None]


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T | None:
    try:
        return decode(data)
    except MalformedMessageError:
        return None
