"""Options of a task: what may be given, what it must be, and how it becomes a task on the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypedDict, cast

import msgspec

from asynqpy.broker import keys
from asynqpy.broker.messages import INT32_MAX, TaskMessage, TaskState
from asynqpy.broker.producing import NewTask
from asynqpy.random_ids import random_id

#: asynq's defaults.
DEFAULT_QUEUE = "default"
DEFAULT_MAX_RETRY = 25
DEFAULT_TIMEOUT = 30 * 60

#: No duration may be longer (s): a century keeps every instant within four-digit years, which asynqmon needs.
_LONGEST = 100 * 366 * 86_400

#: A length of time: a ``timedelta``, or seconds.
Duration: TypeAlias = timedelta | float


class TaskOptions(TypedDict, total=False):
    """Options of ``Task`` and of ``Client.enqueue``, which override those of the task.

    Durations are ``timedelta`` or seconds, instants timezone-aware ``datetime``. The wire holds whole seconds:
    durations are rounded up, instants down. ``None`` counts as absent.
    """

    #: Queue name; default ``"default"``.
    queue: str | None
    #: Id of the task; default a random UUID. An id in use, in whatever state, is refused.
    task_id: str | None
    #: Failures after which the task is archived instead of tried again, 0 or more; default 25.
    max_retry: int | None
    #: Longest run of one attempt. 0 or absent: 30 min, or no limit but the deadline where one is given.
    timeout: Duration | None
    #: Instant after which the task is not to run any more.
    deadline: datetime | None
    #: Instant before which the task is not to run. Shares its place with ``process_in``; the one given last counts.
    process_at: datetime | None
    #: Delay before the task is to run.
    process_in: Duration | None
    #: Refuse the task while another of this type, payload and queue holds the lock, at most so long.
    unique: Duration | None
    #: How long to keep the task, and its result, after success; default 0.
    retention: Duration | None
    #: Collect the task with others of the group for an aggregator.
    group: str | None
    #: Metadata; merged over the headers of the task.
    headers: Mapping[str, str] | None
    #: Replicas that have the task before it counts as enqueued, 0 or more; default that of the client, which is 0.
    min_replicas: int | None


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A new task and what its ``TaskInfo`` will say of it."""

    task: NewTask
    next_process_at: float | None


def merge(base: TaskOptions, over: TaskOptions) -> TaskOptions:
    """Options of the task first, those of the call over them; a copy that shares nothing with either."""
    merged, over = given(base), given(over)
    if not merged and "headers" not in over:
        return over
    if over.keys() & {"process_in", "process_at"}:
        merged.pop("process_in", None)
        merged.pop("process_at", None)
    merged.update(over)
    if "headers" in merged:
        merged["headers"] = {**(base.get("headers") or {}), **(over.get("headers") or {})}
    return merged


def given(options: TaskOptions) -> TaskOptions:
    """A copy without the options that are ``None``."""
    return cast("TaskOptions", {k: value for k, value in options.items() if value is not None})


def validate(options: TaskOptions) -> None:
    """Raise ``ValueError`` or ``TypeError`` for an option that is not what it must be."""
    if not options:
        return
    if not _NAMES.issuperset(options):
        unknown, names = sorted(options.keys() - _NAMES)[0], ", ".join(sorted(_NAMES))
        raise TypeError(f"unknown task option {unknown!r}; there are {names}")
    for name, value in options.items():
        if value is not None:
            _CHECKS[name](name, value)


def check_text(name: str, value: object) -> str:
    """A name that is not blank and valid UTF-8, else ``ValueError`` or ``TypeError``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value or value.isspace():
        raise ValueError(f"{name} must not be blank")
    if not value.isascii():
        _check_utf8(name, value)
    return value


def check_queue(name: str, value: object) -> str:
    """A queue's name: not blank, and without the braces that Redis Cluster reads as a hash tag."""
    queue = check_text(name, value)
    if "{" in queue or "}" in queue:
        raise ValueError(
            f"{name} {queue!r} must not contain braces: Redis Cluster reads them as a hash tag"
        )
    return queue


def check_count(name: str, value: object) -> None:
    """A whole number of 0 or more, else ``ValueError`` or ``TypeError``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= INT32_MAX:
        raise ValueError(f"{name} must be between 0 and {INT32_MAX}, not {value}")


def check_headers(name: str, value: object) -> Mapping[str, str]:
    """Text to text."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of str to str, not {type(value).__name__}")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{name} must map str to str, not {key!r} to {text!r}")
        _check_utf8(f"{name} key", key)
        _check_utf8(f"{name}[{key!r}]", text)
    return value


def seconds(name: str, value: object) -> float:
    """A duration of 0 or more as seconds."""
    length = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(length, int | float) or isinstance(length, bool):
        raise TypeError(f"{name} must be a timedelta or seconds, not {type(value).__name__}")
    if not 0 <= length <= _LONGEST:
        raise ValueError(f"{name} must be between 0 and 100 years, not {value!r}")
    return float(length)


def check_positive(name: str, value: object) -> float:
    """A duration of more than 0 as seconds."""
    length = seconds(name, value)
    if length == 0:
        raise ValueError(f"{name} must be longer than 0")
    return length


def draft(
    task_type: str, payload: bytes | None, options: TaskOptions, now: float, *, token: str = ""
) -> Draft:
    """Lay valid options out as a task on the wire. Raises ``ValueError`` for a deadline that has passed.

    ``now`` is unix s. ``token`` stands for this attempt when the caller chose the id (see ``enqueue.lua``).
    """
    if _SIMPLE.issuperset(options):
        return Draft(NewTask(_simple_message(task_type, payload or b"", options)), now)
    queue, max_retry = options.get("queue") or DEFAULT_QUEUE, options.get("max_retry")
    task_id = options.get("task_id")
    process_at = _process_at(options, now)
    state, score = _entrance(options, process_at, now)
    lock_ttl = _lock_ttl(options, process_at - now if state is TaskState.SCHEDULED else 0.0)
    timeout, deadline = _limits(options, now)
    message = TaskMessage(
        type=task_type,
        payload=payload or b"",
        id=task_id or random_id(),
        queue=queue,
        max_retry=DEFAULT_MAX_RETRY if max_retry is None else max_retry,
        timeout=timeout,
        deadline=deadline,
        unique_key=keys.unique(queue, task_type, payload) if lock_ttl else "",
        retention=_whole_seconds("retention", options.get("retention")),
        group_key=options.get("group") or "",
        headers=dict(options.get("headers") or {}),
    )
    next_process_at = None if state is TaskState.AGGREGATING else max(process_at, now)
    min_replicas = options.get("min_replicas") or 0
    new_task = NewTask(message, state, score, lock_ttl, token if task_id else "", min_replicas)
    return Draft(new_task, next_process_at)


def _simple_message(task_type: str, payload: bytes, options: TaskOptions) -> TaskMessage:
    """What most tasks are: to run now, in some queue."""
    if not options:
        queue, max_retry, timeout = DEFAULT_QUEUE, DEFAULT_MAX_RETRY, DEFAULT_TIMEOUT
    else:
        queue, limit = options.get("queue") or DEFAULT_QUEUE, options.get("max_retry")
        max_retry = DEFAULT_MAX_RETRY if limit is None else limit
        timeout = _whole_seconds("timeout", options.get("timeout")) or DEFAULT_TIMEOUT
    return TaskMessage(
        type=task_type,
        payload=payload,
        id=random_id(),
        queue=queue,
        max_retry=max_retry,
        timeout=timeout,
    )


def _whole_seconds(name: str, value: Duration | None) -> int:
    return math.ceil(seconds(name, value)) if value else 0


def _process_at(options: TaskOptions, now: float) -> float:
    if "process_at" not in options and "process_in" not in options:
        return now
    for name, value in reversed(given(options).items()):  # the one given last
        if name == "process_in":
            return now + seconds(name, value)
        if name == "process_at":
            return cast("datetime", value).timestamp()
    return now


def _entrance(options: TaskOptions, process_at: float, now: float) -> tuple[TaskState, int]:
    """Where the task goes, and its score there. A delayed task waits in ``scheduled`` even with a group."""
    if process_at > now:
        return TaskState.SCHEDULED, int(process_at)
    if options.get("group"):
        return TaskState.AGGREGATING, int(now)
    return TaskState.PENDING, 0


def _lock_ttl(options: TaskOptions, delay: float) -> int:
    """Whole seconds, never shorter than asked for: the lock covers the delay too."""
    unique = options.get("unique")
    return 0 if unique is None else math.ceil(delay + seconds("unique", unique))


def _limits(options: TaskOptions, now: float) -> tuple[int, int]:
    """Timeout and deadline of the wire; one of them is always set, as Go asks for."""
    timeout = _whole_seconds("timeout", options.get("timeout"))
    deadline = options.get("deadline")
    if deadline is None:
        return timeout or DEFAULT_TIMEOUT, 0
    if deadline.timestamp() <= now:
        raise ValueError(f"the deadline {deadline.isoformat()} has passed")
    # Rounded down like any instant, but not into the past: that would fail the task before it starts.
    return timeout, max(int(deadline.timestamp()), int(now) + 1)


def _check_utf8(name: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error.reason}") from None


def check_instant(name: str, value: object) -> None:
    """A ``datetime`` with a time zone, else ``ValueError`` or ``TypeError``."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{name} must have a time zone; write datetime.now(UTC), not datetime.now()"
        )
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} must be within the years 1 to 9999 of UTC") from None


def _check_unique(name: str, value: object) -> None:
    if seconds(name, value) == 0:
        raise ValueError(f"{name} must be longer than 0: it is how long the lock lasts")


#: Options of a task that is to run now and leaves no trace but itself.
_SIMPLE = frozenset({"queue", "max_retry", "timeout"})

_CHECKS: Mapping[str, Any] = {
    "queue": check_queue,
    "task_id": check_text,
    "max_retry": check_count,
    "timeout": seconds,
    "deadline": check_instant,
    "process_at": check_instant,
    "process_in": seconds,
    "unique": _check_unique,
    "retention": seconds,
    "group": check_text,
    "headers": check_headers,
    "min_replicas": check_count,
}

_NAMES = frozenset(_CHECKS)
