"""The public names: a change here is a change of the public API."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import asynqpy

ROOT = Path(__file__).parents[1]

PUBLIC = [
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


def documented_values() -> Iterator[str]:
    """Names that a module of the package assigns below a ``#:`` comment."""
    for path in (ROOT / "asynqpy").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.parse(text).body:
            is_told = lines[node.lineno - 2].startswith("#:")
            if is_told and isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id


def test_public_names_are_these() -> None:
    assert asynqpy.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_importable(name: str) -> None:
    assert hasattr(asynqpy, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name: str) -> None:
    value = getattr(asynqpy, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    else:
        assert name in documented_values()


@pytest.mark.parametrize(
    "cls", [asynqpy.Client, asynqpy.Server, asynqpy.ServeMux, asynqpy.Supervisor, asynqpy.Task]
)
def test_public_methods_are_documented(cls: type) -> None:
    methods = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    assert [n for n, m in methods.items() if inspect.isfunction(m) and not m.__doc__] == []
