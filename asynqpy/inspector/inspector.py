"""The Inspector: looks at queues, tasks, servers and schedulers, and steers them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeAlias

from asynqpy import payload as payloads
from asynqpy.broker.admin.admin import Admin, ClusterNode
from asynqpy.broker.admin.listing import Found, Record
from asynqpy.broker.admin.moving import Move, Target, Verdict
from asynqpy.broker.admin.queues import DailyStats, GroupInfo, QueueInfo
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.messages import (
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskMessage,
    TaskState,
    WorkerInfo,
    edited,
)
from asynqpy.errors import (
    BrokerError,
    MalformedMessageError,
    QueueNotEmptyError,
    QueueNotFoundError,
    TaskNotFoundError,
    TaskStateError,
)
from asynqpy.inspector.task_filter import TaskFilter
from asynqpy.options import check_count, check_headers, check_instant, check_queue, check_text
from asynqpy.task import TaskInfo

OnProgress: TypeAlias = Callable[[int, int], object]

#: Tasks of a page, unless another size is asked for; Go's.
PAGE_SIZE = 30

#: Most tasks that a streaming listing reads at once.
_STREAMED = 200

#: Times that a message is read again when it has changed between being read and being replaced.
_ATTEMPTS = 10

#: States whose tasks are to be removed before a queue can be, in this order.
_REMOVED = (
    TaskState.COMPLETED,
    TaskState.ARCHIVED,
    TaskState.RETRY,
    TaskState.SCHEDULED,
    TaskState.PENDING,
)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that shows itself, and the tasks that it runs now."""

    info: ServerInfo
    workers: Sequence[WorkerInfo]


class Inspector:
    """Looks at queues and tasks, and steers them, beside any number of clients and servers, Go's among them.

        async with Inspector("redis://localhost:6379") as inspector:
            info = await inspector.get_queue_info("default")
            async for task in inspector.iter_tasks("default", TaskState.ARCHIVED):
                print(task.type, task.last_error)

    ``redis`` is as for ``Client``. Every method raises ``BrokerError``, and ``ValueError`` or ``TypeError`` for bad
    arguments before anything is sent; those with a ``queue`` raise ``QueueNotFoundError`` where there is none.
    """

    def __init__(self, redis: RedisSource) -> None:
        self._admin = Admin(redis)

    def __repr__(self) -> str:
        return f"<Inspector {self._admin.broker!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless a client of yours brought them. Idempotent."""
        await self._admin.close()

    async def ping(self) -> None:
        """Raise ``BrokerError`` unless Redis answers."""
        await self._admin.broker.ping()

    # Queues.

    async def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        return await self._admin.queues()

    async def get_queue_info(self, queue: str, *, memory: bool = True) -> QueueInfo:
        """What the queue holds and has done. Without ``memory`` its memory is not estimated, which is quicker."""
        await self._check(queue)
        (info,) = await self._admin.queue_infos([queue], memory=memory)
        if isinstance(info, BrokerError):
            raise info
        return info

    async def get_queue_infos(
        self, queues: Sequence[str] | None = None, *, memory: bool = False
    ) -> list[QueueInfo]:
        """The same of many queues, default all, in few round trips. A queue that does not exist is empty."""
        names = await self.queues() if queues is None else [_queue(it) for it in queues]
        infos = await self._admin.queue_infos(names, memory=memory)
        for info in infos:
            if isinstance(info, BrokerError):
                raise info
        return [info for info in infos if isinstance(info, QueueInfo)]

    async def history(self, queue: str, days: int) -> list[DailyStats]:
        """What the queue did on each of the last ``days`` (UTC), today first. Redis keeps 90."""
        check_count("days", days)
        if days < 1:
            raise ValueError("days must be 1 or more")
        await self._check(queue)
        return await self._admin.history(queue, days)

    async def groups(self, queue: str) -> list[GroupInfo]:
        """The groups of the queue in which tasks wait, sorted."""
        await self._check(queue)
        return sorted([it async for it in self._admin.groups(queue)], key=lambda it: it.group)

    async def pause_queue(self, queue: str) -> bool:
        """Have no server take tasks of the queue; answers whether it was not paused before."""
        await self._check(queue)
        return await self._admin.pause(queue)

    async def unpause_queue(self, queue: str) -> bool:
        """Have servers take its tasks again; answers whether it was paused."""
        await self._check(queue)
        return await self._admin.unpause(queue)

    async def delete_queue(
        self, queue: str, *, force: bool = False, on_progress: OnProgress | None = None
    ) -> None:
        """Delete a queue, with its completed tasks and its statistics.

        Raises ``QueueNotEmptyError`` while it has other tasks; with ``force`` these are deleted too, as long as none
        is active or being aggregated. Clients that enqueue meanwhile bring the queue back.
        """
        await self._check(queue)
        info = await self.get_queue_info(queue, memory=False)
        live = info.size - info.completed
        if live and not force:
            raise QueueNotEmptyError(f"queue {queue!r} has {live:,} tasks; force deletes them too")
        if info.active or await self._admin.reclaim_stale_sets(queue):
            raise QueueNotEmptyError(f"queue {queue!r} has tasks that are being worked on")
        places = [(state, "") for state in (_REMOVED if force else _REMOVED[:1])]
        if force:
            groups = await self.groups(queue)
            places += [(TaskState.AGGREGATING, group.group) for group in groups]
        progress, deleted = _Progress(on_progress, info.size), 0
        for state, group in places:
            async for step in self._admin.sweep(queue, Target.DELETED, state, group):
                deleted += step.moved
                progress.tell(deleted)
        if not await self._admin.remove_queue(queue):
            raise QueueNotEmptyError(f"queue {queue!r} has got tasks meanwhile, or is damaged")
        progress.end()

    # Tasks.

    async def get_task(self, queue: str, task_id: str) -> TaskInfo:
        """One task. Raises ``TaskNotFoundError``, and ``MalformedMessageError`` for one that cannot be read."""
        await self._check(queue)
        found = await self._find(queue, task_id)
        message = TaskMessage.decode(found.data)
        state = _state(found, task_id)
        score = None
        if state is not TaskState.PENDING:
            score = await self._admin.score(queue, state, found.group, task_id)
        return self._info(message, state, score, score, found.result)

    async def list_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str = "",
        page: int = 1,
        size: int = PAGE_SIZE,
    ) -> list[TaskInfo]:
        """A page of the tasks of a state, the first page being 1.

        Pending tasks come in the order in which they run, scheduled and retry by their time, the others the oldest
        first. The state aggregating needs a ``group``. Records that cannot be read are left out: see ``Doctor``.
        """
        state = _checked_state(state, group)
        for name, value in (("page", page), ("size", size)):
            check_count(name, value)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more")
        await self._check(queue)
        records = await self._admin.page(queue, state, group, (page - 1) * size, size)
        return self._infos(state, records)

    async def iter_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str = "",
        where: TaskFilter | None = None,
    ) -> AsyncGenerator[TaskInfo, None]:
        """All tasks of a state, in the order of ``list_tasks``, read as they are asked for; those that fit ``where``.

        Tasks that are there all the time come, whatever comes and goes meanwhile, and come once. Only if somebody
        deletes from the midst of ``pending`` the last 1,000 that came, some come again.
        """
        state = _checked_state(state, group)
        await self._check(queue)
        fits = self._fits(state, where)
        async with aclosing(self._admin.pages(queue, state, group, _STREAMED)) as pages:
            async for records in pages:
                for task in self._infos(state, [it for it in records if fits(it)]):
                    yield task

    async def run_task(self, queue: str, task_id: str) -> None:
        """Have a task run now: it becomes pending. ``retried`` stays, see ``requeue_task``.

        Raises ``TaskNotFoundError``, and ``TaskStateError`` for a task that is pending or active.
        """
        await self._move(queue, task_id, Target.PENDING, "run")

    async def archive_task(self, queue: str, task_id: str) -> None:
        """Archive a task. Raises ``TaskNotFoundError``, and ``TaskStateError`` for one that is archived or active."""
        await self._move(queue, task_id, Target.ARCHIVED, "archived")

    async def delete_task(self, queue: str, task_id: str) -> None:
        """Delete a task, and its unique lock. Raises ``TaskNotFoundError``, and ``TaskStateError`` if it is active."""
        await self._move(queue, task_id, Target.DELETED, "deleted")

    async def reschedule_task(self, queue: str, task_id: str, process_at: datetime) -> None:
        """Have a task run at another time; one in retry stays there, any other that is not active becomes scheduled.

        Raises ``TaskNotFoundError`` and ``TaskStateError``.
        """
        check_instant("process_at", process_at)
        at = int(process_at.timestamp())
        await self._move(queue, task_id, Target.SCHEDULED, "rescheduled", at=at)

    async def update_task_payload(self, queue: str, task_id: str, payload: object) -> None:
        """Give a task that is not active another payload, of what ``Task`` takes. A unique lock stays what it is.

        Raises ``TaskNotFoundError`` and ``TaskStateError``.
        """
        data = payloads.encode(payload) or b""
        await self._edit(queue, task_id, Target.KEPT, "edited", payload=data)

    async def requeue_task(
        self,
        queue: str,
        task_id: str,
        *,
        payload: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Have a task run now as if it were new, with all of its retries, and another payload or headers if given.

        A unique lock stays what it is. Raises ``TaskNotFoundError``, and ``TaskStateError`` for a task that is pending
        or active.
        """
        if headers is not None:
            check_headers("headers", headers)
        data = None if payload is None else payloads.encode(payload)
        changes: dict[str, Any] = {"payload": data, "headers": headers, "retried": 0}
        await self._edit(queue, task_id, Target.PENDING, "run", completed_at=0, **changes)

    async def run_all_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str = "",
        where: TaskFilter | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Have all tasks of a state run now, or those that fit ``where``; answers how many.

        They are moved 250 at a time, so others go on meanwhile, and what was done stays done when it is interrupted.
        ``on_progress(done, total)`` is told. Raises ``TaskStateError`` for the states pending and active.
        """
        return await self._sweep(queue, Target.PENDING, "run", state, group, where, on_progress)

    async def archive_all_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str = "",
        where: TaskFilter | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Archive all tasks of a state, or those that fit; see ``run_all_tasks``.

        The archive keeps 10,000 tasks: older ones are deleted.
        """
        target = Target.ARCHIVED
        return await self._sweep(queue, target, "archived", state, group, where, on_progress)

    async def delete_all_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str = "",
        where: TaskFilter | None = None,
        on_progress: OnProgress | None = None,
    ) -> int:
        """Delete all tasks of a state, or those that fit; see ``run_all_tasks``."""
        target = Target.DELETED
        return await self._sweep(queue, target, "deleted", state, group, where, on_progress)

    async def cancel_processing(self, task_id: str) -> int:
        """Ask whichever server runs the task to cancel it; answers how many servers heard, of a cluster's one node.

        Best effort, as in Go: nobody tells whether there is such a task.
        """
        return await self._admin.broker.publish_cancel(check_text("task_id", task_id))

    # Servers and schedulers.

    async def servers(self) -> list[RunningServer]:
        """The servers that run now, Go's too, and their tasks."""
        return [RunningServer(info, workers) for info, workers in await self._admin.servers()]

    async def scheduler_entries(self) -> list[SchedulerEntry]:
        """The periodic tasks of the schedulers that run now."""
        return await self._admin.scheduler_entries()

    async def scheduler_enqueue_events(
        self, entry_id: str, *, page: int = 1, size: int = PAGE_SIZE
    ) -> list[SchedulerEnqueueEvent]:
        """What an entry of a scheduler has enqueued, the latest first."""
        check_text("entry_id", entry_id)
        for name, value in (("page", page), ("size", size)):
            check_count(name, value)
            if value < 1:
                raise ValueError(f"{name} must be 1 or more")
        return await self._admin.scheduler_events(entry_id, (page - 1) * size, size)

    # Cluster.

    async def cluster_key_slot(self, queue: str) -> int:
        """The hash slot that has all keys of the queue in a Redis Cluster."""
        return self._admin.key_slot(_queue(queue))

    async def cluster_nodes(self, queue: str) -> list[ClusterNode]:
        """The nodes that have the queue, its primary first. ``BrokerError`` where Redis is no cluster."""
        return await self._admin.cluster_nodes(_queue(queue))

    # Of all of the above.

    async def _check(self, queue: str) -> None:
        if not await self._admin.is_registered(_queue(queue)):
            raise QueueNotFoundError(f"there is no queue {queue!r}")

    async def _find(self, queue: str, task_id: str) -> Found:
        found = await self._admin.find(queue, check_text("task_id", task_id))
        if found is None:
            raise TaskNotFoundError(f"queue {queue!r} has no task {task_id!r}")
        return found

    async def _move(
        self, queue: str, task_id: str, target: Target, done: str, *, at: int | None = None
    ) -> None:
        await self._check(queue)
        move = Move(check_text("task_id", task_id), at=at)
        (answer,) = await self._admin.move(queue, target, [move])
        _raise_unless_moved(answer, queue, task_id, done)

    async def _edit(
        self, queue: str, task_id: str, target: Target, done: str, **changes: Any
    ) -> None:
        """Replace the message of a task by one with the changes that are not ``None``."""
        await self._check(queue)
        answer: str = Verdict.CHANGED
        for _ in range(_ATTEMPTS):
            found = await self._find(queue, task_id)
            data = edited(found.data, {k: v for k, v in changes.items() if v is not None})
            move = Move(task_id, expected=found.data, message=data)
            (answer,) = await self._admin.move(queue, target, [move])
            if answer != Verdict.CHANGED:
                break
        _raise_unless_moved(answer, queue, task_id, done)

    async def _sweep(
        self,
        queue: str,
        target: Target,
        done: str,
        state: TaskState | str,
        group: str,
        where: TaskFilter | None,
        on_progress: OnProgress | None,
    ) -> int:
        state = _checked_state(state, group)
        if state is TaskState.ACTIVE or state.value == target.value:
            raise TaskStateError(f"{state} tasks cannot be {done}", queue=queue, state=state)
        total = await self._count(queue, state, group)
        progress, moved = _Progress(on_progress, total), 0
        fits = self._fits(state, where)
        async with aclosing(self._admin.sweep(queue, target, state, group, fits)) as steps:
            async for step in steps:
                moved += step.moved
                progress.tell(moved + step.passed)
                if progress.done >= total:
                    break  # what has come since then was not meant
        progress.end()
        return moved

    async def _count(self, queue: str, state: TaskState, group: str) -> int:
        if state is TaskState.AGGREGATING:
            return sum(it.size for it in await self.groups(queue) if it.group == group)
        info = await self.get_queue_info(queue, memory=False)
        count: int = getattr(info, state)
        return count

    def _fits(self, state: TaskState, where: TaskFilter | None) -> Callable[[Record], bool]:
        if where is None:
            return lambda record: True

        def fits(record: Record) -> bool:
            infos = self._infos(state, [record])
            return bool(infos) and where.fits(infos[0], self._age(state, record))

        return fits

    def _age(self, state: TaskState, record: Record) -> float | None:
        """How long the task has been in its state, s, as far as is known."""
        message = record.message
        if message is None:
            return None
        since = {
            TaskState.PENDING: (record.pending_since or 0) / 1e9,
            TaskState.RETRY: message.last_failed_at,
            TaskState.COMPLETED: message.completed_at,
            TaskState.ARCHIVED: record.score,
            TaskState.AGGREGATING: record.score,
        }.get(state)
        return self._admin.clock.now() - since if since else None

    def _infos(self, state: TaskState, records: Sequence[Record]) -> list[TaskInfo]:
        return [
            self._info(record.message, state, record.score, record.lease, record.result)
            for record in records
            if record.message is not None
        ]

    def _info(
        self,
        message: TaskMessage,
        state: TaskState,
        score: float | None,
        lease: float | None,
        result: bytes | None,
    ) -> TaskInfo:
        now = self._admin.clock.now()
        next_process_at = now if state is TaskState.PENDING else None
        if state in (TaskState.SCHEDULED, TaskState.RETRY):
            next_process_at = score
        is_orphaned = state is TaskState.ACTIVE and lease is not None and lease <= now
        return TaskInfo.of(
            message,
            state,
            next_process_at=next_process_at,
            is_orphaned=is_orphaned,
            result=result,
        )


class _Progress:
    """Tells how far something is; at last that all is done."""

    def __init__(self, told: OnProgress | None, total: int) -> None:
        self.done = 0
        self._told = told or (lambda done, total: None)
        self._total = total

    def tell(self, done: int) -> None:
        self.done = done
        self._told(min(self.done, self._total), self._total)

    def end(self) -> None:
        if self.done < self._total:
            self._told(self._total, self._total)


def _raise_unless_moved(answer: str, queue: str, task_id: str, done: str) -> None:
    if answer == Verdict.MOVED:
        return
    where = f"task {task_id!r} of queue {queue!r}"
    if answer == Verdict.GONE:
        raise TaskNotFoundError(f"queue {queue!r} has no task {task_id!r}")
    if answer == Verdict.CHANGED:
        raise TaskStateError(f"{where} changes all the time", task_id=task_id, queue=queue)
    if answer == Verdict.UNLISTED:
        text = f"{where} is in none of its lists: the doctor can heal that"
        raise TaskStateError(text, task_id=task_id, queue=queue)
    text = f"{where} is {answer}, and cannot be {done}"
    raise TaskStateError(text, task_id=task_id, queue=queue, state=answer)


def _queue(name: str) -> str:
    return check_queue("queue", name)


def _checked_state(state: TaskState | str, group: str) -> TaskState:
    try:
        known = TaskState(state)
    except ValueError:
        names = ", ".join(TaskState)
        raise ValueError(f"state must be one of {names}, not {state!r}") from None
    if known is TaskState.AGGREGATING:
        check_text("group", group)
    elif group:
        raise ValueError(f"a group is for the state aggregating, not for {known}")
    return known


def _state(found: Found, task_id: str) -> TaskState:
    try:
        return TaskState(found.state)
    except ValueError:
        raise MalformedMessageError(
            f"task {task_id!r} has the unknown state {found.state!r}"
        ) from None
