"""How many tasks a second does one producer process enqueue: one by one, 50 at once, in bulk?

    python -m benchmarks.enqueueing [--quick] [--rounds N] [--contenders asynqpy go ...]

Connections are open before the time runs; Redis is empty. The yardstick of what a Python client can do with one command
for each call is redis-py itself.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import TRIAL, Stage

#: What it is called in a producer's arguments, and what its table is called.
MODES = {
    "sequential": "One by one: each awaits the one before",
    "concurrent": "50 coroutines, goroutines or threads, each one by one",
    "bulk": "In bulk, where there is a documented way",
}

COLUMNS = [Column("rate", "tasks/s"), Column("tasks", "tasks of a round")]


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    return [_by(mode, stage, programs) for mode in MODES]


def _by(mode: str, stage: Stage, programs: list[Program]) -> Plan:
    # Go has no bulk way: asynqpy's own pace one by one is what it is held against there.
    reference = ("asynqpy", "asynqpy") if mode == "bulk" else ("asynq (Go)", "Go")
    planned = Plan(Measure(mode, MODES[mode], COLUMNS, [], *reference))
    for program in programs:
        contender = program.contender
        row = Row(contender.title, contender.name, contender.note)
        planned.add(row, partial(enqueue, stage, program, mode))
    return planned


def enqueue(stage: Stage, program: Program, mode: str) -> Sample:
    """One sample, with as many tasks as the contender's pace allows."""

    def once(tasks: int) -> Sample:
        stage.redis.flush()
        seconds = float(stage.produce(program, mode, tasks)["seconds"])
        return {"rate": tasks / seconds, "tasks": tasks}

    key = f"{program.contender.name} {mode}"
    return once(stage.tasks_for(key, lambda: once(min(TRIAL, stage.options.tasks))["rate"]))


QUESTION = Question("enqueueing", "Tasks enqueued per second", plan, across=True)

if __name__ == "__main__":
    run(QUESTION)
