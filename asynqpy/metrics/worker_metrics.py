"""What the workers of a process do, as metrics: durations, waiting times, outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from asynqpy.metrics.tally import Tally
from asynqpy.options import check_count
from asynqpy.server.observer import AttemptEnd, ServerObserver
from asynqpy.task import ActiveTask

#: Of durations and waiting times, s: from what a handler without work takes to the half hour of asynq's timeout.
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
_SECONDS = (*_QUICK, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

#: Of the event loop, s: beyond 5 the log says what blocks it.
_LAGS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500)

#: What types beyond the limit are counted as.
_OTHER = "other"

#: Most characters of a type in a label.
_LONGEST = 200


class _Kind:
    """What is counted of a type of tasks."""

    __slots__ = ("durations", "ended", "ends", "retries", "started", "waits")

    def __init__(self) -> None:
        self.started = self.ended = self.retries = 0
        self.ends = dict.fromkeys(AttemptEnd, 0)
        self.durations = Tally(_SECONDS)
        self.waits = Tally(_SECONDS)


class WorkerMetrics(ServerObserver, Collector):
    """Counts what servers of one event loop do: pass it to them as ``observer``, and to a ``MetricsServer`` or any
    registry of prometheus_client.

        metrics = WorkerMetrics()
        server = Server("redis://localhost:6379", observer=metrics)

    Types of tasks come from whoever enqueues them, and each has its series: the first ``max_types`` that come do, and
    all others share the type ``other``. Those in ``task_types`` are among them, and have theirs from the start.
    """

    def __init__(self, *, task_types: Iterable[str] = (), max_types: int = 100) -> None:
        if isinstance(task_types, str):
            raise TypeError("task_types must be several types, not a str")
        check_count("max_types", max_types)
        #: By the label, which is the type itself but for odd ones.
        self._kinds = {_label(task_type): _Kind() for task_type in task_types}
        self._max_types = max(max_types, len(self._kinds))
        self._lags = Tally(_LAGS)
        self._batches = Tally(_BATCHES)

    def __repr__(self) -> str:
        return f"<WorkerMetrics {len(self._kinds)} task types>"

    # What servers tell.

    def attempt_started(self, task: ActiveTask, waited: float | None) -> None:
        kind = self._kinds.get(task.type) or self._kind(task.type)
        kind.started += 1
        if task.retried:
            kind.retries += 1
        if waited is not None:
            kind.waits.add(waited)

    def attempt_ended(self, task: ActiveTask, end: AttemptEnd, seconds: float) -> None:
        kind = self._kinds.get(task.type) or self._kind(task.type)
        kind.ended += 1
        kind.ends[end] += 1
        kind.durations.add(seconds)

    def outcomes_written(self, count: int) -> None:
        self._batches.add(count)

    def loop_answered(self, lag: float) -> None:
        self._lags.add(lag)

    def _kind(self, task_type: str) -> _Kind:
        """That of a type which has none by its very name yet."""
        label = _label(task_type)
        if (
            label not in self._kinds
            and len(self._kinds) - (_OTHER in self._kinds) >= self._max_types
        ):
            label = _OTHER
        return self._kinds.setdefault(label, _Kind())

    # What Prometheus asks.

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Any thread may ask."""
        kinds = self._kinds.copy()
        yield _counter(
            "asynqpy_task_attempts_total",
            "Attempts at tasks that have ended, by what became of them.",
            ["task_type", "outcome"],
            [([it, end.value], n) for it, kind in kinds.items() for end, n in kind.ends.items()],
        )
        yield _counter(
            "asynqpy_task_retries_total",
            "Attempts at tasks that had failed before.",
            ["task_type"],
            [([it], kind.retries) for it, kind in kinds.items()],
        )
        running = GaugeMetricFamily(
            "asynqpy_tasks_in_progress", "Tasks whose handlers run now.", labels=["task_type"]
        )
        for label, kind in kinds.items():
            # In this order: what ends and starts meanwhile must not make it negative.
            ended = kind.ended
            running.add_metric([label], kind.started - ended)
        yield running
        yield _histogram(
            "asynqpy_task_duration_seconds",
            "How long handlers took.",
            {label: kind.durations for label, kind in kinds.items()},
        )
        yield _histogram(
            "asynqpy_task_wait_seconds",
            "How long tasks had been pending when their handlers started.",
            {label: kind.waits for label, kind in kinds.items()},
        )
        yield _histogram(
            "asynqpy_event_loop_lag_seconds",
            "How long the event loop took to come to what it was to do at once; one sample a second.",
            self._lags,
        )
        yield _histogram(
            "asynqpy_settle_batch_size",
            "Outcomes of tasks that were sent to Redis in one round trip.",
            self._batches,
        )


def _counter(
    name: str, told: str, labels: list[str], values: Iterable[tuple[list[str], int]]
) -> CounterMetricFamily:
    counter = CounterMetricFamily(name, told, labels=labels)
    for of, value in values:
        counter.add_metric(of, value)
    return counter


def _histogram(name: str, told: str, tallies: Tally | dict[str, Tally]) -> HistogramMetricFamily:
    """One tally, or one for each type."""
    if isinstance(tallies, Tally):
        histogram = HistogramMetricFamily(name, told)
        histogram.add_metric([], list(tallies.buckets()), tallies.sum)
        return histogram
    histogram = HistogramMetricFamily(name, told, labels=["task_type"])
    for label, tally in tallies.items():
        histogram.add_metric([label], list(tally.buckets()), tally.sum)
    return histogram


def _label(task_type: str) -> str:
    """Short enough to be kept, and fit to be sent."""
    return task_type[:_LONGEST].encode("utf-8", "replace").decode()
