"""Values that the broker takes, with defaults that fit most tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.broker.messages import ServerInfo, TaskMessage, TaskState, WorkerInfo
from asynqpy.broker.outcomes import Lease, Outcome, Settlement
from asynqpy.broker.producing import NewTask
from asynqpy.clock import Clock

#: A lock of a task type of our own, in the queue ``default``.
LOCK = "asynq:{default}:unique:report:"

#: The stamp of the worker whose turn it is in a test.
STAMP = 12_345

SERVER = ServerInfo(
    host="h",
    pid=1,
    server_id="s",
    concurrency=1,
    queues={"default": 1},
    status="active",
    start_time=datetime(2026, 1, 1, tzinfo=UTC),
    active_worker_count=1,
)
WORKER = WorkerInfo(
    host="h",
    pid=1,
    server_id="s",
    task_id="t1",
    task_type="t",
    task_payload=b"",
    queue="default",
    start_time=datetime(2026, 1, 1, tzinfo=UTC),
    deadline=datetime(2026, 1, 1, tzinfo=UTC),
)


def new_task(
    task_id: str = "t1",
    *,
    state: TaskState = TaskState.PENDING,
    score: int = 0,
    lock: str = "",
    lock_ttl: int = 60,
    token: str = "",
    min_replicas: int = 0,
    **fields: Any,
) -> NewTask:
    known: dict[str, Any] = {"type": "email:welcome", "max_retry": 25, "timeout": 1800}
    message = TaskMessage(id=task_id, unique_key=lock, **(known | fields))
    return NewTask(message, state, score, lock_ttl if lock else 0, token, min_replicas)


def scheduled_task(task_id: str = "t1", *, at: int, **fields: Any) -> NewTask:
    return new_task(task_id, state=TaskState.SCHEDULED, score=at, **fields)


def grouped_task(task_id: str = "t1", *, group: str, at: int, **fields: Any) -> NewTask:
    return new_task(task_id, state=TaskState.AGGREGATING, score=at, group_key=group, **fields)


def lease_score(clock: Clock, stamp: int = STAMP) -> float:
    """The score of a lease taken now; stamp 0 is a Go worker's."""
    return int(clock.now()) + 30 + stamp / 2**21


def lease_on(task: pb.TaskMessage, clock: Clock, stamp: int = STAMP) -> Lease:
    return Lease(task.queue, task.id, stamp, int(clock.now()) + 30)


def settlement(
    task: pb.TaskMessage, outcome: Outcome, at: float, fence: str = str(STAMP)
) -> Settlement:
    """What a worker reports that was given ``task`` as it is."""
    return Settlement(TaskMessage.decode(task.SerializeToString()), fence, outcome, at)
