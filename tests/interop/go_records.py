"""What the Go program answers, one class per kind of line.

The other side is ``go/records.go``.
"""

from __future__ import annotations

from datetime import date, datetime

import msgspec


class GoTask(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``TaskInfo``. Durations in seconds, 0 for none; times that are not set are None.

    The wire cannot tell an empty payload or result from none: both are None here.
    """

    id: str
    queue: str
    type: str
    payload: bytes | None
    headers: dict[str, str] | None
    state: str
    max_retry: int
    retried: int
    last_error: str
    last_failed_at: datetime | None
    timeout: float
    deadline: datetime | None
    group: str
    next_process_at: datetime | None
    is_orphaned: bool
    retention: float
    completed_at: datetime | None
    result: bytes | None


class GoQueue(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``QueueInfo``. Latency in seconds, memory in bytes."""

    queue: str
    size: int
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    aggregating: int
    groups: int
    processed: int
    failed: int
    processed_total: int
    failed_total: int
    paused: bool
    latency: float
    memory_usage: int


class GoRunningTask(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``WorkerInfo``: a task that a server works on."""

    id: str
    type: str
    payload: bytes | None
    queue: str
    started: datetime
    deadline: datetime


class GoDay(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``DailyStats``."""

    queue: str
    date: date
    processed: int
    failed: int


class GoGroup(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``GroupInfo``."""

    group: str
    size: int


class GoEntry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``SchedulerEntry``; options that its reader does not know are missing."""

    id: str
    spec: str
    type: str
    payload: bytes | None
    options: list[str]
    next: datetime | None
    prev: datetime | None


class GoEvent(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``SchedulerEnqueueEvent``."""

    id: str
    enqueued_at: datetime


class GoServer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """asynq's ``ServerInfo``."""

    id: str
    host: str
    pid: int
    concurrency: int
    queues: dict[str, int]
    strict_priority: bool
    started: datetime
    status: str
    workers: list[GoRunningTask]
