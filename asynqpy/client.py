"""The Client: puts tasks into Redis for whichever server, Python or Go, serves their queue."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from asynqpy import options as task_options
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.producer import REPLICATION_TIMEOUT
from asynqpy.broker.producing import Answered, NewTask
from asynqpy.errors import AsynqError, BrokerError
from asynqpy.options import Duration, TaskOptions
from asynqpy.outbox import Outbox
from asynqpy.task import Task, TaskInfo
from asynqpy.unanswered import Unanswered


class Client:
    """Enqueues tasks. One client serves a whole application; any number of coroutines may use it at once.

    ``redis`` is a URL (``redis://``, ``rediss://``, ``redis-socket://`` or ``unix://``, ``redis-sentinel://``,
    ``redis-cluster://``, these two with ``rediss`` for TLS, ``embedded://``) or a ``redis.asyncio`` client, which stays
    yours to close. Raises ``ValueError`` or ``TypeError`` for anything else; nothing is sent before the first call.

    ``min_replicas`` is that of every task which has none of its own, 0 for no wait; ``replication_timeout`` bounds the
    wait for them, and is cut to half of the time that the connection gives Redis for an answer.

        async with Client("redis://localhost:6379") as client:
            info = await client.enqueue(Task("email:welcome", {"user_id": 42}), queue="critical")
    """

    def __init__(
        self,
        redis: RedisSource,
        *,
        min_replicas: int = 0,
        replication_timeout: Duration = REPLICATION_TIMEOUT,
    ) -> None:
        task_options.check_count("min_replicas", min_replicas)
        timeout = task_options.check_positive("replication_timeout", replication_timeout)
        self._min_replicas = min_replicas
        self._broker = Broker(redis, replication_timeout=timeout)
        self._unanswered = Unanswered()
        self._outbox = Outbox(self._send, self._unanswered)

    def __repr__(self) -> str:
        return f"<Client {self._broker!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def enqueue(self, task: Task, **options: Unpack[TaskOptions]) -> TaskInfo:
        """Enqueue a task, to run now, later (``process_at``, ``process_in``) or with its ``group``.

        ``options`` override those of the task; headers are merged. Defaults: queue ``"default"``, 25 retries, 30 min
        timeout, a random id.

        Raises ``DuplicateTaskError`` (``unique``), ``TaskIdConflictError`` (``task_id``), ``ValueError`` or
        ``TypeError`` before anything is sent, and ``BrokerError``. After ``BrokerUnavailableError`` the task may have
        been stored. With a ``task_id`` or ``unique`` it can be enqueued again by the same client, and is stored once.
        After ``NotReplicatedError`` (``min_replicas``) it has been stored.
        """
        if options:
            task_options.validate(options)
        of_task = self._merge(task, options)
        now = self._broker.now_if_kept()
        if now is None:
            now = await self._keep_clock()
        token = uuid.uuid4().hex if "task_id" in of_task else ""
        draft = task_options.draft(task.type, task.payload, of_task, now, token=token)
        new = self._unanswered.resume(draft.task) if self._unanswered else draft.task
        answer = await self._outbox.put(new, in_doubt=new is not draft.task)
        if answer is None:
            return TaskInfo.of(new.message, new.state, next_process_at=draft.next_process_at)
        outcome = _outcome(new, draft.next_process_at, answer)
        if isinstance(outcome, AsynqError):
            raise outcome
        return outcome

    async def enqueue_many(
        self, tasks: Iterable[Task], **options: Unpack[TaskOptions]
    ) -> list[TaskInfo | AsynqError]:
        """Enqueue tasks in one round trip; answers in their order the ``TaskInfo`` of each, or why it was refused.

        Reasons are ``DuplicateTaskError``, ``TaskIdConflictError`` and ``BrokerError``, of which ``NotReplicatedError``
        means that it was stored, ``BrokerUnavailableError`` that it may have been; one task's does not stop the
        others. ``options`` override those of every task. Raises ``ValueError`` or ``TypeError`` before anything is sent
        when an option is wrong.
        """
        return await self._enqueue(list(tasks), options)

    async def ping(self) -> None:
        """Raise ``BrokerError`` unless Redis answers."""
        await self._broker.ping()

    async def close(self) -> None:
        """Close the connections, unless a client of yours brought them. Idempotent.

        Whatever is asked of the client afterwards is a ``BrokerError``.
        """
        await self._broker.close()

    async def _enqueue(
        self, tasks: list[Task], options: TaskOptions
    ) -> list[TaskInfo | AsynqError]:
        task_options.validate(options)
        merged = [self._merge(task, options) for task in tasks]
        try:
            await self._broker.keep_clock()
            now = self._broker.clock.now()
        except BrokerError as error:
            return [_one_of(error) for _ in tasks]
        token = uuid.uuid4().hex
        drafts = [
            task_options.draft(task.type, task.payload, of_task, now, token=f"{token}:{place}")
            for place, (task, of_task) in enumerate(zip(tasks, merged, strict=True))
        ]
        new = [self._unanswered.resume(draft.task) for draft in drafts]
        answers = await self._outbox.put_all(new)
        return [
            _outcome(task, draft.next_process_at, answer)
            for task, draft, answer in zip(new, drafts, answers, strict=True)
        ]

    def _merge(self, task: Task, options: TaskOptions) -> TaskOptions:
        """Options of the task with those of the call over them; to be read only."""
        if not isinstance(task, Task):
            raise TypeError(f"what is enqueued must be a Task, not {type(task).__name__}")
        merged = options or task._options
        if options and task._options:
            merged = task_options.merge(task._options, options)
        if self._min_replicas and merged.get("min_replicas") is None:
            merged = {**merged, "min_replicas": self._min_replicas}
        if merged.get("min_replicas"):
            self._broker.check_waits()  # each caller by himself: tasks of one turn would share the error
        return merged

    async def _keep_clock(self) -> float:
        try:
            await self._broker.keep_clock()
        except BrokerError as error:
            raise _one_of(error) from error.__cause__
        return self._broker.clock.now()

    def _send(
        self, tasks: list[NewTask], answered: Answered, parts: int
    ) -> Coroutine[Any, Any, Sequence[Exception | None]]:
        return self._broker.enqueue(tasks, answered, parts=parts)


def _outcome(
    task: NewTask, next_process_at: float | None, answer: Exception | None
) -> TaskInfo | AsynqError:
    if answer is None:
        return TaskInfo.of(task.message, task.state, next_process_at=next_process_at)
    if isinstance(answer, BrokerError):
        return _one_of(answer)
    if isinstance(answer, AsynqError):
        return answer
    raise answer


def _one_of(error: BrokerError) -> BrokerError:
    """A copy for one task of several that share the error: an exception that is raised collects a traceback."""
    mine = copy.copy(error).with_traceback(error.__traceback__)
    mine.__cause__ = error.__cause__
    return mine
