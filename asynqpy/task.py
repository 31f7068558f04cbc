"""A task in its three lives: ``Task`` is enqueued, ``ActiveTask`` is handled, ``TaskInfo`` is looked at."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol, TypeVar, Unpack, overload

from asynqpy import options as task_options
from asynqpy import payload as payloads
from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.clock import instant
from asynqpy.options import TaskOptions

__all__ = ["ActiveTask", "CancelCause", "Task", "TaskInfo", "TaskState", "current_task"]

T = TypeVar("T")

#: Past the guard of a frozen dataclass.
_set = object.__setattr__


@dataclass(frozen=True, init=False)
class Task:
    """A task to enqueue: its type, its payload, and options that hold wherever it is enqueued.

    ``payload`` is bytes or str as they are, or anything JSON can hold (dict, list, dataclass, ``msgspec.Struct``,
    pydantic model), encoded here, once. ``options`` are those of ``TaskOptions``; those given to ``enqueue`` override
    them.

    Raises ``ValueError`` or ``TypeError`` for a blank type, a payload that JSON cannot hold, or an option that makes no
    sense.

        Task("email:welcome", {"user_id": 42}, max_retry=5, timeout=timedelta(seconds=20))
    """

    type: str
    payload: bytes | None
    _options: TaskOptions = field(hash=False)

    def __init__(self, type: str, payload: object = None, **options: Unpack[TaskOptions]) -> None:
        task_options.check_text("type", type)
        task_options.validate(options)
        try:
            data = payloads.encode(payload)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(
                f"the payload of a {type!r} task must be bytes, str or what JSON can hold: {error}"
            ) from error
        _set(self, "type", type)
        _set(self, "payload", data)
        _set(self, "_options", task_options.merge({}, options) if options else {})

    def __repr__(self) -> str:
        return f"Task({self.type!r}, {self.payload!r}, **{self._options!r})"

    @property
    def options(self) -> TaskOptions:
        """The options that were given; a copy."""
        return task_options.merge({}, self._options)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that were given; a copy."""
        return self.options.get("headers") or {}


# Not frozen: the constructor of a frozen dataclass takes several times as long, once for each enqueue.
@dataclass(slots=True, kw_only=True)
class TaskInfo:
    """What Redis knows of a task.

    Durations and instants that are not set are ``None``. ``retried`` counts failures so far. ``next_process_at`` is
    when a pending (now), scheduled or retry task is next to run. ``is_orphaned``: active, but its lease has run out.
    """

    id: str
    queue: str
    type: str
    payload: bytes
    headers: Mapping[str, str]
    state: TaskState
    max_retry: int
    retried: int = 0
    last_error: str = ""
    last_failed_at: datetime | None = None
    timeout: timedelta | None = None
    deadline: datetime | None = None
    group: str = ""
    next_process_at: datetime | None = None
    is_orphaned: bool = False
    retention: timedelta | None = None
    completed_at: datetime | None = None
    result: bytes | None = None

    @classmethod
    def of(
        cls,
        message: TaskMessage,
        state: TaskState,
        *,
        next_process_at: float | None = None,
        is_orphaned: bool = False,
        result: bytes | None = None,
    ) -> TaskInfo:
        """Lay a message out; ``next_process_at`` is unix s."""
        # Past ``__init__``, which takes four times as long, once for each enqueue. A field that is forgotten here is an
        # AttributeError in the tests.
        info = cls.__new__(cls)
        info.id = message.id
        info.queue = message.queue
        info.type = message.type
        info.payload = message.payload
        info.headers = message.headers
        info.state = state
        info.max_retry = message.max_retry
        info.retried = message.retried
        info.last_error = message.error_msg
        info.last_failed_at = instant(message.last_failed_at) if message.last_failed_at else None
        info.timeout = _duration(message.timeout) if message.timeout else None
        info.deadline = instant(message.deadline) if message.deadline else None
        info.group = message.group_key
        info.next_process_at = instant(next_process_at) if next_process_at else None
        info.is_orphaned = is_orphaned
        info.retention = _duration(message.retention) if message.retention else None
        info.completed_at = instant(message.completed_at) if message.completed_at else None
        info.result = result
        return info


class CancelCause(StrEnum):
    """Why the queue cancelled a handler: ``ActiveTask.cancel_cause``, and ``args[0]`` of the ``CancelledError``."""

    REQUESTED = "cancel requested"
    DEADLINE = "deadline exceeded"
    LEASE_LOST = "lease lost"
    SHUTDOWN = "server shutdown"


class TaskThread(Protocol):
    """What a task needs to know of the thread in which its plain ``def`` handler runs."""

    @property
    def ended(self) -> bool: ...

    def when_ended(self, callback: Callable[[], None]) -> None: ...

    def wait_for(self, awaitable: Awaitable[Any]) -> Any: ...


class ActiveTask:
    """A task while its handler runs.

    ``retried`` counts the failures before this attempt; ``deadline`` is when this attempt is cut off, UTC.
    ``cancel_cause`` says why the queue cancelled it, if it did: a plain ``def`` handler, which cannot be cancelled, may
    look there and stop by itself. ``thread`` is where such a handler runs.
    """

    __slots__ = (
        "_deadline",
        "_write_result",
        "cancel_cause",
        "headers",
        "id",
        "max_retry",
        "payload",
        "queue",
        "retried",
        "thread",
        "type",
    )

    def __init__(
        self,
        message: TaskMessage,
        *,
        deadline: float,
        write_result: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """``deadline`` is unix s."""
        self.type = message.type
        self.payload = message.payload
        self.headers: Mapping[str, str] = message.headers
        self.id = message.id
        self.queue = message.queue
        self.retried = message.retried
        self.max_retry = message.max_retry
        self._deadline = deadline
        self.cancel_cause: CancelCause | None = None
        self.thread: TaskThread | None = None
        self._write_result = write_result

    def __repr__(self) -> str:
        attempt = f"{self.retried + 1} of {self.max_retry + 1}"
        return f"<ActiveTask {self.type} {self.id} in {self.queue}, attempt {attempt}>"

    @property
    def deadline(self) -> datetime:
        return instant(self._deadline)

    @overload
    def json(self) -> Any: ...

    @overload
    def json(self, model: type[T]) -> T: ...

    def json(self, model: Any = Any) -> Any:
        """The payload read as JSON, as ``model`` where one is given: a dataclass, ``msgspec.Struct``, ``TypedDict``,
        pydantic model or any type msgspec knows.

        Raises ``PayloadError``; a handler that lets it through archives the task, as retrying could not help.
        """
        return payloads.decode(self.payload, model)

    async def write_result(self, data: object) -> int:
        """Store the result of the task, kept with it for its ``retention``; answers its length in bytes.

        ``data`` is what ``Task`` takes as a payload. From a plain ``def`` handler:
        ``task.wait_for(task.write_result(data))``. Raises ``LeaseExpiredError`` when the task was given away meanwhile,
        ``BrokerError``, and ``TypeError`` or ``ValueError`` for what JSON cannot hold.
        """
        encoded = payloads.encode(data) or b""
        await self._write_result(encoded)
        return len(encoded)

    def wait_for(self, awaitable: Awaitable[T]) -> T:
        """In a plain ``def`` handler: have the server's event loop await this, and wait for what comes of it.

        When the task is cancelled, so is the awaited thing, and ``asyncio.CancelledError`` comes of it; afterwards it
        is raised at once. Raises what the awaited thing raises, and ``RuntimeError`` on the event loop: ``await``
        there.
        """
        if self.thread is None:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise RuntimeError("wait_for is for plain def handlers; in async def, await instead")
        result: T = self.thread.wait_for(awaitable)
        return result


#: The task whose handler runs in this context; set by the server.
running_task: ContextVar[ActiveTask] = ContextVar("asynqpy_running_task")


def current_task() -> ActiveTask:
    """The task being handled, anywhere below its handler, in threads too. Raises ``LookupError`` outside of one."""
    try:
        return running_task.get()
    except LookupError:
        raise LookupError("no task is being handled here") from None


@lru_cache(maxsize=64)
def _duration(seconds: int) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds > 0 else None
