"""asynqpy: the task queue for asyncio applications, on the wire format of Go's hibiken/asynq.

Producers use ``Client`` and ``Task``, workers ``Server`` and ``ServeMux``; handlers receive an ``ActiveTask``.
"""

from asynqpy.broker.admin.admin import ClusterNode
from asynqpy.broker.admin.queues import DailyStats, GroupInfo, QueueInfo
from asynqpy.broker.findings import Finding, Problem
from asynqpy.broker.messages import (
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    WorkerInfo,
)
from asynqpy.client import Client
from asynqpy.doctor import Doctor, DoctorReport
from asynqpy.embedded import EmbeddedServer
from asynqpy.errors import (
    AsynqError,
    BrokerAuthError,
    BrokerError,
    BrokerFullError,
    BrokerUnavailableError,
    DeadlineExceededError,
    DuplicateTaskError,
    EmbeddedServerError,
    HandlerNotFoundError,
    LeaseExpiredError,
    MalformedMessageError,
    NotReplicatedError,
    PayloadError,
    ProcessStartError,
    QueueNotEmptyError,
    QueueNotFoundError,
    RevokeTask,
    ServerClosedError,
    SkipRetry,
    TaskCancelledError,
    TaskIdConflictError,
    TaskNotFoundError,
    TaskStateError,
    WorkerCrashedError,
)
from asynqpy.handler import AsyncHandler, Handler
from asynqpy.inspector.inspector import Inspector, RunningServer
from asynqpy.inspector.task_filter import TaskFilter
from asynqpy.mux import Middleware, ServeMux
from asynqpy.options import Duration, TaskOptions
from asynqpy.retry import default_retry_delay
from asynqpy.server.server import Server, ServerState
from asynqpy.supervisor.reports import ProcessInfo, ProcessState
from asynqpy.supervisor.supervisor import Supervisor
from asynqpy.task import ActiveTask, CancelCause, Task, TaskInfo, TaskState, current_task
from asynqpy.version import __version__ as __version__

__all__ = [
    "ActiveTask",
    "AsyncHandler",
    "AsynqError",
    "BrokerAuthError",
    "BrokerError",
    "BrokerFullError",
    "BrokerUnavailableError",
    "CancelCause",
    "Client",
    "ClusterNode",
    "DailyStats",
    "DeadlineExceededError",
    "Doctor",
    "DoctorReport",
    "DuplicateTaskError",
    "Duration",
    "EmbeddedServer",
    "EmbeddedServerError",
    "Finding",
    "GroupInfo",
    "Handler",
    "HandlerNotFoundError",
    "Inspector",
    "LeaseExpiredError",
    "MalformedMessageError",
    "Middleware",
    "NotReplicatedError",
    "PayloadError",
    "Problem",
    "ProcessInfo",
    "ProcessStartError",
    "ProcessState",
    "QueueInfo",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "RevokeTask",
    "RunningServer",
    "SchedulerEnqueueEvent",
    "SchedulerEntry",
    "ServeMux",
    "Server",
    "ServerClosedError",
    "ServerInfo",
    "ServerState",
    "SkipRetry",
    "Supervisor",
    "Task",
    "TaskCancelledError",
    "TaskFilter",
    "TaskIdConflictError",
    "TaskInfo",
    "TaskNotFoundError",
    "TaskOptions",
    "TaskState",
    "TaskStateError",
    "WorkerCrashedError",
    "WorkerInfo",
    "current_task",
    "default_retry_delay",
]
