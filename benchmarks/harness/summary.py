"""What the figures are held against: each promise, the ratio that was measured, and whether it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness.figures import median
from benchmarks.harness.records import Measure, Result

Results = Mapping[str, Result]

OURS, GO, PLAIN = "asynqpy", "asynq (Go)", "redis-py, plain LPUSH"


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

    def ratio(results: Results) -> float | None:
        mine = middle(results, question, measure, row)
        other = middle(results, question, reference_measure or measure, reference)
        return mine / other if mine is not None and other else None

    return ratio


def middle(results: Results, question: str, measure: str, row: str, key: str = "") -> float | None:
    """The median of a row's main column, or of another."""
    found = _measure(results, question, measure)
    of = found.row(row) if found else None
    values = of.values(key or found.main.key) if of and found else []
    return median(values) if values else None


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
        median(values)
        for row in measure.rows
        if row.contender != "go" and not row.contender.startswith("asynqpy")
        if (values := row.values(measure.main.key))
    ]
    return ours / max(peers) if peers else None


PROMISES = (
    Promise("No-op tasks, concurrency 50, against Go's asynq", 4.0, between("processing", "concurrency 50", OURS, GO)),
    Promise("... against the fastest other Python queue", 12.0, _of_best_peer),
    Promise("... of what Redis alone would allow", 40.0, _column("processing", "concurrency 50", OURS, "share"), "%"),
    Promise("... two worker processes against one", 1.3, between("growth", "workers", "2 processes", "1 process")),
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
)  # fmt: skip


def table(results: Results) -> str:
    """All promises that were measured, as Markdown; empty where none was."""
    lines = [
        f"| {promise.title} | {_figure(promise, value)} | {_bound(promise)} | {_verdict(promise, value)} |"
        for promise in PROMISES
        if (value := promise.measured(results)) is not None
    ]
    head = ["| | measured | wanted | |", "| --- | ---: | ---: | --- |"]
    return "\n".join([*head, *lines]) if lines else ""


def _figure(promise: Promise, value: float) -> str:
    return f"{value:.0f} %" if promise.unit == "%" else f"{value:.2f} {promise.unit}"


def _bound(promise: Promise) -> str:
    return f"{'≤' if promise.at_most else '≥'} {promise.bound:g} {promise.unit}"


def _verdict(promise: Promise, value: float) -> str:
    return "reached" if promise.is_kept(value) else "missed"
