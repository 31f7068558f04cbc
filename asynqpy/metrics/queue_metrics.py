"""What queues hold and have done, as metrics: with the names and labels of asynq's own exporter."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.admin.queues import QueueInfo
from asynqpy.broker.connection import RedisSource
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.options import Duration
from asynqpy.options import seconds as check_seconds

logger = logging.getLogger("asynqpy.metrics")

#: Seconds for which an estimate of a queue's memory is kept: it takes Redis far longer than to count.
_MEMORY_KEPT = 60.0

#: Queues at most whose memory is estimated for one scrape. Others have their turn in the next.
_MEASURED_AT_ONCE = 100

#: Those of asynq's exporter, which has no aggregating.
_STATES = ("active", "pending", "scheduled", "retry", "archived", "completed")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the last look at the queues saw. ``taken_at`` is by the monotonic clock; ``seconds`` is how long it took."""

    queues: Sequence[QueueInfo] = ()
    memory: dict[str, int] = field(default_factory=dict)
    is_up: bool = False
    seconds: float = 0.0
    taken_at: float = -math.inf


@dataclass(slots=True)
class _Look:
    """A snapshot in the making. ``errors`` are by queue, ``""`` for all of them."""

    queues: list[QueueInfo] = field(default_factory=list)
    is_up: bool = False
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Estimate:
    bytes: int
    at: float


class QueueMetrics(Collector):
    """Metrics of all queues of a Redis. ``MetricsServer(queues=...)`` serves them.

        async with QueueMetrics("redis://localhost:6379") as queues: ...

    ``redis`` is as for ``Client``. ``await refresh()`` looks at the queues, and ``collect`` tells what it saw, as any
    registry of prometheus_client may ask. What Redis does not tell, of one queue or of all, is left out and counted.

    - ``max_age``: a refresh does nothing when the last one is younger; default 1 s.
    - ``timeout``: how long a refresh waits for Redis; default 5 s.
    - ``memory``: whether to estimate the memory of queues too, each once a minute; default yes.
    """

    def __init__(
        self,
        redis: RedisSource,
        *,
        max_age: Duration = 1.0,
        timeout: Duration = 5.0,
        memory: bool = True,
    ) -> None:
        self._max_age = check_seconds("max_age", max_age)
        self._timeout = check_seconds("timeout", timeout)
        self._memory = memory
        self._estimates: dict[str, _Estimate] = {}
        self._errors: Counter[str] = Counter()
        self._snapshot = Snapshot()
        self._failing: set[str] = set()
        self._refreshing = asyncio.Lock()
        self._admin = Admin(redis)

    def __repr__(self) -> str:
        return f"<QueueMetrics {self._admin.broker!r}>"

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

    async def refresh(self) -> None:
        """Look at the queues. Raises nothing when Redis is away: then it is down, and no queue is told of."""
        async with self._refreshing:
            began = time.monotonic()
            if began - self._snapshot.taken_at < self._max_age:
                return
            look = _Look()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._take(look, began)
            except TimeoutError:
                look = _Look(errors={"": f"no answer within {self._timeout:g} s"})
            except BrokerError as error:
                is_up = not isinstance(error, BrokerUnavailableError)
                look = _Look(is_up=is_up, errors={"": str(error)})
            self._count_errors(look.errors)
            now = time.monotonic()
            memory = {name: it.bytes for name, it in self._estimates.items()}
            self._snapshot = Snapshot(look.queues, memory, look.is_up, now - began, now)

    async def _take(self, look: _Look, now: float) -> None:
        names = await self._admin.queues()
        known = set(names)
        self._estimates = {name: it for name, it in self._estimates.items() if name in known}
        measured = set(self._to_measure(names, now)) if self._memory else set()
        for memory in (False, True):
            some = [name for name in names if (name in measured) is memory]
            for name, info in zip(
                some, await self._admin.queue_infos(some, memory=memory), strict=True
            ):
                if isinstance(info, BrokerError):
                    look.errors[name] = str(info)
                    continue
                look.queues.append(info)
                if info.memory_usage is not None:
                    self._estimates[name] = _Estimate(info.memory_usage, now)
        look.queues.sort(key=lambda info: info.queue)
        look.is_up = bool(look.queues) or not names

    def _to_measure(self, names: Sequence[str], now: float) -> list[str]:
        """Those whose memory is to be estimated now, the ones that waited longest first."""

        def measured_at(name: str) -> float:
            estimate = self._estimates.get(name)
            return -math.inf if estimate is None else estimate.at

        due = [name for name in names if measured_at(name) <= now - _MEMORY_KEPT]
        return sorted(due, key=measured_at)[:_MEASURED_AT_ONCE]

    def _count_errors(self, errors: Mapping[str, str]) -> None:
        """Each is counted; the log has the first of a row."""
        for queue, text in errors.items():
            self._errors[queue] += 1
            if queue not in self._failing:
                of = f"of queue {queue}" if queue else "of the queues"
                logger.warning("no metrics %s: %s", of, text, extra={"queue": queue})
        self._failing = set(errors)

    # What Prometheus asks.

    def collect(self) -> Iterator[Metric]:
        """The metrics as of the last refresh. Any thread may ask."""
        snapshot = self._snapshot
        yield _of_states(snapshot.queues)
        for name, told, value in _GAUGES:
            gauge = GaugeMetricFamily(name, told, labels=["queue"])
            for info in snapshot.queues:
                gauge.add_metric([info.queue], value(info))
            yield gauge
        memory = GaugeMetricFamily(
            "asynq_queue_memory_usage_approx_bytes",
            "Memory that the queue takes in Redis, estimated from a sample of its tasks.",
            labels=["queue"],
        )
        for info in snapshot.queues:
            if info.queue in snapshot.memory:
                memory.add_metric([info.queue], snapshot.memory[info.queue])
        yield memory
        for name, told, value in _COUNTERS:
            counter = CounterMetricFamily(name, told, labels=["queue"])
            for info in snapshot.queues:
                counter.add_metric([info.queue], value(info))
            yield counter
        yield from self._of_ourselves(snapshot)

    def _of_ourselves(self, snapshot: Snapshot) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "asynqpy_redis_up",
            "Whether Redis answered when the queues were last looked at.",
            value=float(snapshot.is_up),
        )
        yield GaugeMetricFamily(
            "asynqpy_scrape_duration_seconds",
            "How long the last look at the queues took.",
            value=snapshot.seconds,
        )
        errors = CounterMetricFamily(
            "asynqpy_scrape_errors_total",
            'Looks in which Redis did not tell of the queue; queue="" is all of them.',
            labels=["queue"],
        )
        for queue, count in self._errors.copy().items():
            errors.add_metric([queue], count)
        yield errors


def _of_states(queues: Sequence[QueueInfo]) -> Metric:
    gauge = GaugeMetricFamily(
        "asynq_tasks_enqueued_total",
        "Tasks in the queue, by their state.",
        labels=["queue", "state"],
    )
    for info in queues:
        for state in _STATES:
            gauge.add_metric([info.queue, state], getattr(info, state))
    return gauge


_Of: TypeAlias = Callable[[QueueInfo], float]

_GAUGES: Sequence[tuple[str, str, _Of]] = (
    (
        "asynq_queue_size",
        "Tasks in the queue, in whatever state.",
        lambda info: info.size,
    ),
    (
        "asynq_queue_latency_seconds",
        "How long the next pending task has been waiting.",
        lambda info: info.latency.total_seconds(),
    ),
    (
        "asynq_queue_paused_total",
        "1 if the queue is paused, else 0.",
        lambda info: info.is_paused,
    ),
)

_COUNTERS: Sequence[tuple[str, str, _Of]] = (
    (
        "asynq_tasks_processed_total",
        "Attempts that have ended since the queue was first used, failed ones included.",
        lambda info: info.processed_total,
    ),
    (
        "asynq_tasks_failed_total",
        "Attempts that have failed since the queue was first used.",
        lambda info: info.failed_total,
    ),
)
