"""How many tasks a second that wait 10 ms each, at concurrency 200?

    python -m benchmarks.io_bound [--quick] [--rounds N] [--contenders asynqpy go ...]

200 waits of 10 ms at once are at most 20,000 tasks/s.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage

WAIT_MS, CONCURRENCY = 10, 200

COLUMNS = [
    Column("rate", "tasks/s"),
    Column("redis_us", "Redis' CPU, µs/task", 1),
    Column("tasks", "tasks of a round"),
]


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    title = f"Tasks that wait {WAIT_MS} ms, concurrency {CONCURRENCY}"
    measure = Measure("io", title, COLUMNS, [], "asynq (Go)", "Go")
    measure.remark = f"No worker can exceed {CONCURRENCY * 1000 // WAIT_MS:,} tasks/s."
    planned = Plan(measure)
    for program in programs:
        contender = program.contender
        row = Row(contender.title, contender.name, contender.note)
        take = partial(stage.process, program, f"sleep:{WAIT_MS}", CONCURRENCY)
        planned.add(row, take)
    return [planned]


QUESTION = Question("io_bound", "I/O-bound tasks processed per second", plan)

if __name__ == "__main__":
    run(QUESTION)
