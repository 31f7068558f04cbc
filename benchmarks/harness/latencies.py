"""How long tasks wait: a producer that stamps them, a worker that tells how late each was."""

from __future__ import annotations

import random
import time

from benchmarks.harness.figures import percentiles
from benchmarks.harness.installing import Program
from benchmarks.harness.records import Column, Sample
from benchmarks.harness.stage import READY, Stage

COLUMNS = [
    Column("p50", "p50, ms", 2),
    Column("p95", "p95, ms", 2),
    Column("p99", "p99, ms", 2),
    Column("max", "max, ms", 1),
    Column("tasks", "tasks of a round"),
]

#: Seconds between two single tasks: of every phase of a poll each second, and never less than the first.
GAPS = (0.2, 1.2)

#: In the short form, which has a dozen of workers to start in a minute.
QUICK_GAPS = (0.1, 0.7)

#: Seconds that a worker is left alone before the first of them, so that it is idle.
_SETTLE, _QUICK_SETTLE = 1.0, 0.3

CONCURRENCY = 50


def wake_ups(
    stage: Stage,
    producer: Program,
    worker: Program,
    tasks: int,
    pool: list[float],
    gaps: tuple[float, float] | None = None,
) -> Sample:
    """Single tasks to an idle worker: percentiles, ms, from the call of enqueue to the handler's start.

    Each latency is added to the pool.
    """
    quick = stage.options.quick
    gaps = gaps or (QUICK_GAPS if quick else GAPS)
    chance = random.Random(tasks)  # the same gaps for all
    stage.redis.flush()
    with (
        stage.worker(worker, "latency", CONCURRENCY, tasks) as serving,
        stage.producer(producer, "single") as sending,
    ):
        time.sleep(_QUICK_SETTLE if quick else _SETTLE)
        for _ in range(tasks):
            time.sleep(chance.uniform(*gaps))
            sending.say("")
            sending.expect("sent", READY)
        latencies = serving.answer(READY)["latencies_ms"]
    sample = _sample(latencies)
    pool += latencies
    return sample


def open_loop(stage: Stage, program: Program, rate: int, seconds: int) -> Sample:
    """Tasks at a fixed rate: percentiles, ms, from when each was meant to be sent to its handler's start."""
    stage.redis.flush()
    tasks = rate * seconds
    with (
        stage.worker(program, "latency", CONCURRENCY, tasks) as serving,
        stage.producer(program, "paced", rate, seconds),
    ):
        # Who needs more than three times as long does not keep up: its latency has no bound.
        return _sample(serving.answer(3.0 * seconds + 5.0)["latencies_ms"])


def _sample(latencies: list[float]) -> Sample:
    return {**percentiles(latencies), "tasks": len(latencies)}
