"""How many tasks a second that compute, and how near to what the cores could do without a queue?

    python -m benchmarks.cpu_bound [--quick] [--rounds N] [--contenders asynqpy go ...]

A task is a chain of SHA-256 of a few bytes, which holds Python's global lock. Threads of one process share one core
then, processes do not; ``concurrency`` is the number of cores. asynqpy's plain handlers run in threads.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial

from benchmarks.harness import machine
from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage

#: Links of a task's chain: some milliseconds.
ITERATIONS = 4_000

#: Tasks' worth of work that the row without a queue computes.
ALONE = 200

COLUMNS = [Column("rate", "tasks/s"), Column("tasks", "tasks of a round")]
NO_QUEUE = "no queue: a Python loop on one core"


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    cores = machine.cores()
    title = f"Tasks of {ITERATIONS:,} SHA-256 each, concurrency {cores}"
    measure = Measure("cpu", title, COLUMNS, [], NO_QUEUE, "one core")
    planned = Plan(measure)
    measure.remark = "Go's loop is compiled: its figure beside the Python ones shows the language, not the queue."
    planned.add(Row(NO_QUEUE, "none"), compute)
    for program in programs:
        contender = program.contender
        row = Row(contender.title, contender.name, contender.note)
        planned.add(row, partial(stage.process, program, f"cpu:{ITERATIONS}", cores))
    return [planned]


def compute() -> Sample:
    """The work without a queue, in this process."""
    started = time.perf_counter()
    for _ in range(ALONE):
        digest = bytes(64)
        for _ in range(ITERATIONS):
            digest = hashlib.sha256(digest).digest()
    return {"rate": ALONE / (time.perf_counter() - started), "tasks": ALONE}


QUESTION = Question("cpu_bound", "CPU-bound tasks processed per second", plan)

if __name__ == "__main__":
    run(QUESTION)
