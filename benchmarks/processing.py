"""How many no-op tasks a second does a worker process, at concurrency 10, 50 and 200?

    python -m benchmarks.processing [--quick] [--rounds N] [--concurrency 50 ...] [--contenders asynqpy go ...]

Every queue is filled before its worker starts; the time runs from the first task's start to the last one's end. Redis'
limit is what it could do if workers cost nothing: one task in its own CPU time for a task, measured in the same round.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage

CONCURRENCIES = (10, 50, 200)

COLUMNS = [
    Column("rate", "tasks/s"),
    Column("redis_us", "Redis' CPU, µs/task", 1),
    Column("share", "% of Redis' limit"),
    Column("tasks", "tasks of a round"),
]


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    sizes = stage.options.concurrency or ((50,) if stage.options.quick else CONCURRENCIES)
    return [_at(stage, programs, concurrency) for concurrency in sizes]


def _at(stage: Stage, programs: list[Program], concurrency: int) -> Plan:
    title = f"No-op tasks, concurrency {concurrency}"
    planned = Plan(Measure(f"concurrency {concurrency}", title, COLUMNS, [], "asynq (Go)", "Go"))
    for program in programs:
        contender = program.contender
        row = Row(contender.title, contender.name, contender.note)
        planned.add(row, partial(stage.process, program, "noop", concurrency))
    return planned


QUESTION = Question("processing", "No-op tasks processed per second", plan)

if __name__ == "__main__":
    run(QUESTION)
