"""Drives the Go program of ./go: its client and inspector by calls, its worker in a ``with``."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

import msgspec

from tests.interop.go_records import (
    GoDay,
    GoEntry,
    GoEvent,
    GoGroup,
    GoQueue,
    GoServer,
    GoTask,
)
from tests.interop.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

Record = TypeVar("Record")


class GoError(Exception):
    """The Go program ended with an error; its words are the text."""


class GoDuplicateError(GoError):
    """asynq.ErrDuplicateTask"""


class GoConflictError(GoError):
    """asynq.ErrTaskIDConflict"""


class EnqueueOptions(TypedDict, total=False):
    """Durations are timedeltas or seconds."""

    payload: bytes
    headers: Mapping[str, str]
    queue: str
    id: str
    max_retry: int
    timeout: timedelta | float
    deadline: datetime
    process_in: timedelta | float
    process_at: datetime
    unique: timedelta | float
    retention: timedelta | float
    group: str


class _Enqueued(msgspec.Struct):
    """What ``enqueue`` answers for a task that was refused; accepted ones have no such key."""

    error: str = ""


class GoProgram:
    """The Go program built against one version of asynq, talking to one Redis."""

    def __init__(self, version: str, binary: Path, redis_url: str) -> None:
        self.version = version
        self.has_headers = version != "0.24.1"
        self._binary = str(binary)
        self._redis_url = redis_url

    async def enqueue(self, type: str, **options: Unpack[EnqueueOptions]) -> GoTask:
        """Raises ``GoDuplicateError``, ``GoConflictError``, or ``GoError`` for all else."""
        (task,) = await self.enqueue_many(type, 1, **options)
        return task

    async def enqueue_many(
        self, type: str, count: int, **options: Unpack[EnqueueOptions]
    ) -> list[GoTask]:
        """Equal tasks; with an ``id``, theirs are ``<id>-0``, ``<id>-1`` and so on."""
        flags = ["-type", type, "-count", str(count), *_flags(options)]
        return [_accepted(line) for line in await self._run("enqueue", *flags)]

    async def task(self, id: str, queue: str = "default") -> GoTask:
        (task,) = await self._inspect("task", GoTask, queue=queue, id=id)
        return task

    async def tasks(
        self,
        state: str,
        queue: str = "default",
        *,
        group: str = "",
        page: int = 1,
        size: int = 0,
    ) -> list[GoTask]:
        """Tasks of a queue in one state, in the order of Go's Inspector; all of them with the size 0."""
        paging = {"page": str(page), "size": str(size)}
        return await self._inspect("list", GoTask, queue=queue, state=state, group=group, **paging)

    async def queues(self) -> set[str]:
        return {line["queue"] for line in await self._inspect("queues", dict[str, str])}

    async def queue(self, name: str = "default") -> GoQueue:
        (info,) = await self._inspect("queue", GoQueue, queue=name)
        return info

    async def servers(self) -> list[GoServer]:
        return await self._inspect("servers", GoServer)

    async def history(self, queue: str = "default") -> list[GoDay]:
        """Of the last 7 days."""
        return await self._inspect("history", GoDay, queue=queue)

    async def groups(self, queue: str = "default") -> list[GoGroup]:
        return await self._inspect("groups", GoGroup, queue=queue)

    async def entries(self) -> list[GoEntry]:
        return await self._inspect("entries", GoEntry)

    async def events(self, entry_id: str, *, page: int = 1, size: int = 30) -> list[GoEvent]:
        paging = {"page": str(page), "size": str(size)}
        return await self._inspect("events", GoEvent, id=entry_id, **paging)

    async def slot(self, queue: str) -> int:
        (line,) = await self._inspect("slot", dict[str, int], queue=queue)
        return line["slot"]

    async def on_all(
        self, action: str, state: str, queue: str = "default", *, group: str = ""
    ) -> int:
        """Tells Go's Inspector to ``run-all``, ``archive-all`` or ``delete-all`` tasks of a state."""
        flags = {"queue": queue, "state": state, "group": group}
        (line,) = await self._inspect(action, dict[str, int], **flags)
        return line["count"]

    async def act(self, action: str, *, id: str = "", queue: str = "default") -> None:
        """Tells Go's Inspector to ``run``, ``archive``, ``delete`` or ``cancel`` a task, or to
        ``pause``, ``unpause``, ``remove`` or ``remove-force`` a queue.
        """
        await self._inspect(action, object, queue=queue, id=id)

    def worker(
        self,
        *,
        queues: Mapping[str, int] | None = None,
        concurrency: int = 10,
        strict: bool = False,
        retry_delay: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> AbstractAsyncContextManager[WorkerProcess]:
        """A worker with the handlers of ``handlers.go``, for the time of the ``async with``."""
        names = ",".join(f"{name}:{n}" for name, n in (queues or {"default": 1}).items())
        flags = [
            f"-queues={names}",
            f"-concurrency={concurrency}",
            f"-strict={str(strict).lower()}",
        ]
        if retry_delay is not None:
            flags.append(f"-retry-delay={retry_delay}s")
        if shutdown_timeout is not None:
            flags.append(f"-shutdown-timeout={shutdown_timeout}s")
        return WorkerProcess.running(self._binary, "work", "-redis", self._redis_url, *flags)

    async def _inspect(self, do: str, kind: type[Record], **flags: str) -> list[Record]:
        pairs = [text for name, value in flags.items() for text in (f"-{name}", value)]
        lines = await self._run("inspect", "-do", do, *pairs)
        return [msgspec.json.decode(line, type=kind) for line in lines]

    async def _run(self, command: str, *flags: str) -> list[bytes]:
        process = await asyncio.create_subprocess_exec(
            self._binary,
            command,
            "-redis",
            self._redis_url,
            *flags,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise GoError(err.decode().strip())
        return out.splitlines()


def _accepted(line: bytes) -> GoTask:
    error = msgspec.json.decode(line, type=_Enqueued).error
    if error == "duplicate":
        raise GoDuplicateError(error)
    if error == "conflict":
        raise GoConflictError(error)
    return msgspec.json.decode(line, type=GoTask)


def _flags(options: EnqueueOptions) -> list[str]:
    flags = []
    for name, value in options.items():
        if isinstance(value, dict):
            flags += [f"-header={key}={text}" for key, text in value.items()]
        else:
            flags.append(f"-{name.replace('_', '-')}={_text(name, value)}")
    return flags


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds()}s"
    if name in ("timeout", "process_in", "unique", "retention"):
        return f"{value}s"
    return str(value)
