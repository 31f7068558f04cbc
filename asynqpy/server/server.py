"""The Server: puts the parts together, starts and stops them, and obeys signals."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Self

import anyio

from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.messages import ServerInfo
from asynqpy.clock import instant
from asynqpy.errors import (
    BrokerAuthError,
    BrokerError,
    BrokerUnavailableError,
    ServerClosedError,
)
from asynqpy.handler import AsyncHandler, Handler, as_async, check_arity
from asynqpy.options import Duration, check_queue
from asynqpy.options import seconds as check_seconds
from asynqpy.priority import Priority, StrictPriority, WeightedPriority
from asynqpy.retry import RetryDelay, default_retry_delay
from asynqpy.server.canceler import Canceler
from asynqpy.server.census import Vitals, census
from asynqpy.server.error_report import ErrorHandler, ErrorReport
from asynqpy.server.executor import Executor
from asynqpy.server.forwarder import Forwarder
from asynqpy.server.healthchecker import HealthCheck, HealthChecker
from asynqpy.server.heartbeater import Heartbeater
from asynqpy.server.janitor import Janitor
from asynqpy.server.loopwatch import LoopWatch
from asynqpy.server.memory_check import MemoryCheck
from asynqpy.server.observer import ServerObserver, guarded
from asynqpy.server.processor import Processor
from asynqpy.server.reconciler import Reconciler
from asynqpy.server.recoverer import Recoverer
from asynqpy.server.runs import Runs
from asynqpy.server.service import Service, cancel_until_done
from asynqpy.server.service_thread import ServiceThread
from asynqpy.server.settler import Settler
from asynqpy.server.signals import obeying_signals
from asynqpy.server.verdict import FailurePolicy
from asynqpy.server.waker import Waker

logger = logging.getLogger("asynqpy.server")

#: Seconds that a heartbeat waits for Redis. Without one for 10 s the server counts as dead: a beat that goes into a
#: connection of which nobody said that it is broken must find out, and be followed by another, before that.
_HEART_TIMEOUT = 3.0

#: Seconds that a shutdown leaves a tick which waits for a silent Redis, once the handlers have ended.
_PATIENCE = 1.0


class ServerState(StrEnum):
    """Values are those of the wire: what the CLI and asynqmon show."""

    NEW = "new"
    ACTIVE = "active"
    #: Takes no more tasks; what runs goes on.
    STOPPED = "stopped"
    #: Shut down, or on its way there.
    CLOSED = "closed"


class Server:
    """Processes tasks: takes them from Redis and runs their handlers, at most ``concurrency`` at once.

        server = Server("redis://localhost:6379", concurrency=20, queues={"critical": 6, "low": 1})
        await server.run(mux)

    ``redis`` is a URL or a ``redis.asyncio`` client (see ``Client``). Durations are ``timedelta`` or seconds.

    - ``queues``: priority per queue, 1 or more, or just their names; default ``{"default": 1}``. Backed-up queues get
      tasks processed in proportion to their priorities; with ``strict_priority`` a queue waits until those above it are
      empty.
    - ``retry_delay(retried, error, task)``: delay before the next attempt; default asynq's formula.
    - ``is_failure(error)``: whether an error uses up a retry and is counted; default always.
    - ``error_handler(task, error)``, sync or async: told of each failed attempt, of each lost lease with
      ``LeaseExpiredError``, and of each task recovered from a dead worker with ``WorkerCrashedError``.
    - ``shutdown_timeout``: how long ``shutdown`` waits for handlers before it hands their tasks back; default 8 s.
    - ``task_check_interval``: how often an idle server looks for tasks; default 1 s.
    - ``delayed_task_check_interval``: how often at least it looks for tasks that became due; default 5 s.
    - ``health_check(error)``, sync or async: told each ``health_check_interval`` (15 s) whether Redis answers.
    - ``janitor_interval`` (8 s), ``janitor_batch_size`` (100): deletion of completed tasks after their retention.
    - ``observer``: a ``ServerObserver`` that is told of each attempt, for metrics; default none.

    Raises ``ValueError`` or ``TypeError`` for arguments that make no sense.
    """

    #: Seconds between heartbeats; the wire's lease (30 s) survives five that fail.
    _heartbeat_interval = 5.0

    #: Seconds of silence of the event loop after which the log says what blocks it.
    _blocked_after = 5.0

    def __init__(
        self,
        redis: RedisSource,
        *,
        concurrency: int = 10,
        queues: Mapping[str, int] | Sequence[str] | None = None,
        strict_priority: bool = False,
        retry_delay: RetryDelay = default_retry_delay,
        is_failure: Callable[[BaseException], bool] | None = None,
        error_handler: ErrorHandler | None = None,
        shutdown_timeout: Duration = 8.0,
        task_check_interval: Duration = 1.0,
        delayed_task_check_interval: Duration = 5.0,
        health_check: HealthCheck | None = None,
        health_check_interval: Duration = 15.0,
        janitor_interval: Duration = 8.0,
        janitor_batch_size: int = 100,
        observer: ServerObserver | None = None,
    ) -> None:
        self._concurrency = _positive_int("concurrency", concurrency)
        self._queues = _check_queues({"default": 1} if queues is None else queues)
        self._strict_priority = strict_priority
        _check_callbacks(retry_delay, is_failure, error_handler, health_check)
        self._policy = FailurePolicy(retry_delay, is_failure or (lambda error: True))
        self._report = ErrorReport(error_handler)
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        self._task_check_interval = _interval("task_check_interval", task_check_interval)
        self._delayed_interval = _interval(
            "delayed_task_check_interval", delayed_task_check_interval
        )
        self._health_check = health_check
        self._health_check_interval = _interval("health_check_interval", health_check_interval)
        self._janitor_interval = _interval("janitor_interval", janitor_interval)
        self._janitor_batch_size = _positive_int("janitor_batch_size", janitor_batch_size)
        if janitor_batch_size > MAX_BATCH:
            raise ValueError(f"janitor_batch_size must be {MAX_BATCH} or less: Redis waits for it")
        self._observer = _check_observer(observer)
        self._identity = (socket.gethostname() or "unknown-host", os.getpid(), str(uuid.uuid4()))
        self._started_at = instant(0)
        self._runs = Runs()
        self._state = ServerState.NEW
        self._broker = Broker(redis, owner=self._describe(0).owner)
        self._broker.tell_since = observer is not None
        self._clock = self._broker.clock
        self._told_to_stop = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        running = f"{len(self._runs)} of {self._concurrency} running"
        return f"<Server {self._identity[2]} {self._state}, {running}, {self._queues}>"

    @property
    def state(self) -> ServerState:
        return self._state

    async def run(self, handler: Handler) -> None:
        """Process tasks until SIGTERM or SIGINT, then shut down; a second one aborts the handlers at once.

        SIGTSTP stops fetching. Signals are obeyed in the main thread only; elsewhere ``shutdown`` ends it.
        """
        obeying = obeying_signals(terminate=self._terminate, pause=self.stop)
        async with obeying, self.running(handler):
            await self._told_to_stop.wait()

    @asynccontextmanager
    async def running(self, handler: Handler) -> AsyncIterator[Self]:
        """Process tasks while the block runs: for the lifespan of a web app. Handles no signals."""
        await self.start(handler)
        try:
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await self.shutdown()

    async def start(self, handler: Handler) -> None:
        """Start processing and return.

        ``handler`` is a ``ServeMux``, an ``async def f(task)``, or a plain ``def f(task)``, which runs in a thread.
        When Redis cannot be reached the server keeps trying. Raises ``BrokerAuthError`` for wrong credentials,
        ``ServerClosedError`` after a shutdown, and ``RuntimeError`` when it runs already.
        """
        if self._state is ServerState.CLOSED:
            raise ServerClosedError("the server was shut down; make a new one")
        if self._state is not ServerState.NEW:
            raise RuntimeError("the server runs already")
        # Put together before the first await: stop and shutdown may come while Redis is being greeted.
        self._assemble(as_async(handler))
        self._state = ServerState.ACTIVE
        try:
            await self._greet_redis()
        except BaseException:
            if self._closing is None:
                self._state = ServerState.NEW
            raise
        if self._closing is not None:
            await self._broker.close()
            raise ServerClosedError("the server was shut down while it started")
        self._started_at = instant(self._clock.now())
        self._heart.start()
        for service in self._services:
            service.start()
        census.enlist(self._vitals)
        logger.info("%r started on %r", self, self._broker)

    async def stop(self) -> None:
        """Take no more tasks; those that run go on, and their leases are kept. Idempotent."""
        if self._state is ServerState.ACTIVE:
            self._state = ServerState.STOPPED
            self._processor.stop_fetching()
            logger.info("%r takes no more tasks", self)

    async def shutdown(self) -> None:
        """Stop for good: wait up to ``shutdown_timeout`` for handlers, hand back the tasks of the rest, disconnect.

        Returns when everything has stopped. Idempotent.
        """
        if self._state is ServerState.NEW:
            self._state = ServerState.CLOSED
            await self._broker.close()
        if any(run.job is asyncio.current_task() for run in self._runs):
            raise RuntimeError(
                "a handler cannot wait for the shutdown of its own server, which waits for it: "
                "asyncio.create_task(server.shutdown())"
            )
        if self._closing is None:
            if self._state is ServerState.CLOSED:
                return
            self._state = ServerState.CLOSED
            self._closing = asyncio.create_task(self._close(), name="asynqpy:shutdown")
        await asyncio.shield(self._closing)

    def abort(self) -> None:
        """Let a shutdown wait for handlers no longer: they are cancelled and their tasks handed back."""
        if self._closing is not None:
            self._processor.abort()

    async def ping(self) -> None:
        """Raise ``BrokerError`` unless Redis answers."""
        await self._broker.ping()

    async def _greet_redis(self) -> None:
        try:
            await self._unless_told_to_stop(self._broker.sync_clock())
        except BrokerAuthError:
            raise
        except BrokerUnavailableError as error:
            # Which the log has from the circuit breaker.
            logger.info("the server starts without Redis and keeps trying: %s", error)
        except BrokerError as error:
            logger.warning("the server starts without Redis and keeps trying: %s", error)

    async def _unless_told_to_stop(self, awaitable: Coroutine[Any, Any, None]) -> None:
        """Await something that a shutdown need not wait for."""
        job, told = asyncio.create_task(awaitable), asyncio.create_task(self._told_to_stop.wait())
        try:
            await asyncio.wait([job, told], return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                job.result()
        finally:
            for task in (job, told):
                await cancel_until_done(task)
            if not job.cancelled():
                job.exception()  # told by now, or no news any more

    def _assemble(self, handler: AsyncHandler) -> None:
        """Wire the parts together: the only place that knows them all."""
        broker, clock, runs, queues = self._broker, self._clock, self._runs, list(self._queues)
        loop, observer = asyncio.get_running_loop(), self._observer or ServerObserver()
        self._forwarder = Forwarder(
            broker=broker, clock=clock, queues=queues, interval=self._delayed_interval
        )
        self._processor = Processor(
            broker=broker,
            clock=clock,
            priority=self._priority(),
            concurrency=self._concurrency,
            executor=Executor(
                handler=handler,
                policy=self._policy,
                report=self._report,
                clock=clock,
                observer=self._observer,
            ),
            settler=Settler(clock=clock),
            runs=runs,
            report=self._report,
            task_check_interval=self._task_check_interval,
            retry_due=self._forwarder.expect,
            written=guarded(observer.outcomes_written),
        )
        recoverer = Recoverer(
            broker=broker,
            clock=clock,
            queues=queues,
            report=self._report,
            owner=broker.owner,
            claims=self._processor.claims,
            retry_due=self._forwarder.expect,
        )
        janitor = Janitor(
            broker=broker,
            queues=queues,
            interval=self._janitor_interval,
            batch_size=self._janitor_batch_size,
        )
        reconciler = Reconciler(broker=broker, queues=queues)
        self._senders: list[Service] = [self._forwarder, recoverer, janitor, reconciler]
        self._others: list[Service] = [
            Canceler(broker=broker, runs=runs),
            MemoryCheck(broker=broker),
            Waker(broker=broker),
        ]
        if self._health_check is not None:
            checker = HealthChecker(
                broker=broker,
                health_check=self._health_check,
                interval=self._health_check_interval,
            )
            self._others.append(checker)
        heartbeater = Heartbeater(
            broker=broker.sibling(timeout=_HEART_TIMEOUT),
            clock=clock,
            runs=runs,
            describe=self._describe,
            server_loop=loop,
            interval=self._heartbeat_interval,
        )
        watch = LoopWatch(
            server_loop=loop,
            thread_id=threading.get_ident(),
            blocked_after=self._blocked_after,
            on_answer=guarded(observer.loop_answered),
        )
        # A loop that was closed without a shutdown has no handlers left whose leases could be kept.
        self._heart = ServiceThread(
            [heartbeater, watch],
            name="asynqpy:heart",
            is_needed=lambda: not loop.is_closed(),
        )

    @property
    def _services(self) -> list[Service]:
        return [*self._senders, self._processor, *self._others]

    def _priority(self) -> Priority:
        return (StrictPriority if self._strict_priority else WeightedPriority)(self._queues)

    def _describe(self, running: int) -> ServerInfo:
        host, pid, server_id = self._identity
        return ServerInfo(
            host=host,
            pid=pid,
            server_id=server_id,
            concurrency=self._concurrency,
            queues=self._queues,
            strict_priority=self._strict_priority,
            status=self._state.value,
            start_time=self._started_at,
            active_worker_count=running,
        )

    def _vitals(self) -> Vitals:
        return Vitals(
            state=self._state.value,
            running=len(self._runs),
            concurrency=self._concurrency,
            ended=self._runs.ended,
            shutdown_timeout=self._shutdown_timeout,
        )

    async def _close(self) -> None:
        self._told_to_stop.set()
        logger.info("server %s shuts down, %d handlers running", self._identity[2], len(self._runs))
        self._processor.stop_fetching()
        # Nothing new becomes pending or is recovered while handlers end; they can still be cancelled on request.
        await asyncio.gather(
            self._processor.drain(self._shutdown_timeout),
            *(service.stop(_PATIENCE) for service in self._senders),
        )
        await asyncio.gather(*(s.stop(_PATIENCE) for s in [self._processor, *self._others]))
        # The heart beats last, so that leases outlive the handlers.
        await self._heart.stop(_PATIENCE)
        await self._broker.close()
        logger.info("server %s has stopped", self._identity[2])

    def _terminate(self) -> None:
        """The first signal tells the server to stop, the second not to wait for handlers."""
        if self._told_to_stop.is_set():
            self.abort()
        else:
            self._told_to_stop.set()


def _check_callbacks(
    retry_delay: RetryDelay,
    is_failure: Callable[[BaseException], bool] | None,
    error_handler: ErrorHandler | None,
    health_check: HealthCheck | None,
) -> None:
    check_arity("retry_delay", retry_delay, "retried", "error", "task")
    if is_failure is not None:
        check_arity("is_failure", is_failure, "error")
    if error_handler is not None:
        check_arity("error_handler", error_handler, "task", "error")
    if health_check is not None:
        check_arity("health_check", health_check, "error")


def _check_observer(observer: ServerObserver | None) -> ServerObserver | None:
    if observer is not None and not isinstance(observer, ServerObserver):
        raise TypeError(f"observer must be a ServerObserver, not {type(observer).__name__}")
    return observer


def _check_queues(queues: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    if isinstance(queues, list | tuple):
        if len(set(queues)) < len(queues):
            raise ValueError(f"queues names one twice: {queues!r}")
        queues = dict.fromkeys(queues, 1)
    if not isinstance(queues, Mapping) or not queues:
        raise ValueError(
            f'queues must map at least one name to a priority, as {{"default": 1}}, not {queues!r}'
        )
    return {
        check_queue("queue name", name): _positive_int(f"the priority of queue {name!r}", priority)
        for name, priority in queues.items()
    }


def _positive_int(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def _interval(name: str, value: Duration) -> float:
    length = check_seconds(name, value)
    if length == 0:
        raise ValueError(f"{name} must be longer than 0")
    return length
