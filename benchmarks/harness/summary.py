"""What the figures are held against: each promise, the ratio that was measured, and whether it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness.figures import ratio
from benchmarks.harness.records import Measure, Result

Results = Mapping[str, Result]

OURS, GO, PLAIN = "asynqpy", "asynq (Go)", "redis-py, plain LPUSH"
ALONE, CLUSTER = "Redis alone", "Cluster, 3 primaries"


@dataclass(frozen=True)
class Promise:
    """A figure, what it is to be at least (or at most), and how it follows from the results; None: not measured."""

    title: str
    bound: float
    measured: Callable[[Results], float | None]
    unit: str = "×"
    at_most: bool = False

    def is_kept(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


def between(
    question: str, measure: str, row: str, reference: str, *, reference_measure: str = ""
) -> Callable[[Results], float | None]:
    """The ratio of two rows' medians, of one measure or of two in the same question."""

    def found(results: Results) -> float | None:
        mine = middle(results, question, measure, row)
        other = middle(results, question, reference_measure or measure, reference)
        return ratio(mine, other)

    return found


def middle(results: Results, question: str, measure: str, row: str, key: str = "") -> float | None:
    """What stands in the table for a row's main column, or for another."""
    found = _measure(results, question, measure)
    of = found.row(row) if found else None
    return of.middle(key or found.main.key) if of and found else None


def _measure(results: Results, question: str, name: str) -> Measure | None:
    result = results.get(question)
    return result.measure(name) if result else None


def _column(question: str, measure: str, row: str, key: str) -> Callable[[Results], float | None]:
    return lambda results: middle(results, question, measure, row, key)


def _of_best_peer(results: Results) -> float | None:
    """asynqpy's no-op rate against that of the fastest other Python queue."""
    measure = _measure(results, "processing", "concurrency 50")
    ours = middle(results, "processing", "concurrency 50", OURS)
    if measure is None or ours is None:
        return None
    peers = [
        figure
        for row in measure.rows
        if row.contender != "go" and not row.contender.startswith("asynqpy")
        if (figure := row.middle(measure.main.key))
    ]
    return ours / max(peers) if peers else None


PROMISES = (
    Promise("No-op tasks, concurrency 50, against Go's asynq", 4.0, between("processing", "concurrency 50", OURS, GO)),
    Promise("... against the fastest other Python queue", 12.0, _of_best_peer),
    Promise("... of what Redis alone would allow", 40.0, _column("processing", "concurrency 50", OURS, "share"), "%"),
    Promise("... two worker processes against one", 1.3, between("growth", "processes", "2 processes", "1 process")),
    Promise("Enqueue in bulk, against Go one by one", 3.0,
            between("enqueueing", "bulk", OURS, GO, reference_measure="sequential")),
    Promise("Enqueue in bulk, against Go with 50 goroutines", 1.0,
            between("enqueueing", "bulk", OURS, GO, reference_measure="concurrent")),
    Promise("50 coroutines enqueue, against plain LPUSH of redis-py", 4.0,
            between("enqueueing", "concurrent", OURS, PLAIN)),
    Promise("Wake-up by a Go client, p50", 2.0,
            _column("wakeup", "wakeup", "Go client, asynqpy worker", "p50"), "ms", at_most=True),
    Promise("Wake-up by a Go client, p99", 10.0,
            _column("wakeup", "wakeup", "Go client, asynqpy worker", "p99"), "ms", at_most=True),
    Promise("Throughput with 1,000,000 pending, against 10,000", 0.9,
            between("growth", "pending", "1,000,000 pending", "10,000 pending")),
    Promise("Throughput with 10,000 active elsewhere, against 100", 0.8,
            between("growth", "active", "10,000 active", "100 active")),
    Promise("Idle cost with 1,000 queues, against one", 2.0,
            between("growth", "idle", "1,000 queues", "1 queue"), at_most=True),
    Promise("No-op tasks of 12 queues through Cluster, against Redis alone", 0.7,
            between("topologies", "processing, 12 queues", CLUSTER, ALONE)),
    Promise("... of one queue", 0.7, between("topologies", "processing, one queue", CLUSTER, ALONE)),
    Promise("50 coroutines enqueue to 12 queues through Cluster, against Redis alone", 0.7,
            between("topologies", "concurrent, 12 queues", CLUSTER, ALONE)),
)  # fmt: skip


def table(results: Results) -> str:
    """All promises as Markdown; empty where none was measured."""
    values = [promise.measured(results) for promise in PROMISES]
    if all(value is None for value in values):
        return ""
    head = ["| | measured | wanted | |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*head, *map(_line, PROMISES, values)])


def _line(promise: Promise, value: float | None) -> str:
    if value is None:
        return f"| {promise.title} | not measured | {_bound(promise)} | |"
    return f"| {promise.title} | {_figure(promise, value)} | {_bound(promise)} | {_verdict(promise, value)} |"


def _figure(promise: Promise, value: float) -> str:
    """With as many digits as it takes not to contradict the verdict: 3.996 is no 4.00."""
    digits = 0 if promise.unit == "%" else 2
    while promise.is_kept(float(f"{value:.{digits}f}")) != promise.is_kept(value):
        digits += 1
    return f"{value:.{digits}f} {promise.unit}"


def _bound(promise: Promise) -> str:
    return f"{'≤' if promise.at_most else '≥'} {promise.bound:g} {promise.unit}"


def _verdict(promise: Promise, value: float) -> str:
    return "reached" if promise.is_kept(value) else "missed"
