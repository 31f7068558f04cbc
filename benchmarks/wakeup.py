"""How soon does an idle worker begin a task that is enqueued?

    python -m benchmarks.wakeup [--quick] [--rounds N] [--tasks N] [--contenders asynqpy go ...]

A worker that has nothing to do gets single tasks, 0.2 to 1.2 s apart by chance, so that polls are met in every phase.
Each carries the time of its enqueueing by the clock of the one machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.harness.installing import Program
from benchmarks.harness.latencies import COLUMNS, wake_ups
from benchmarks.harness.main import Question, run
from benchmarks.harness.options import Options
from benchmarks.harness.records import Measure, Row
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage

#: Single tasks of a round, in the full and in the short form.
TASKS, QUICK_TASKS = 40, 4

#: Seconds of the short form: starting a dozen of workers takes most of it.
QUICK_LIMIT = 70.0


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    measure = Measure(
        "wakeup",
        "From enqueue to the handler's start, worker idle",
        COLUMNS,
        [],
        "asynq (Go)",
        "Go",
    )
    measure.less_is_better = True
    planned = Plan(measure)
    for label, producer, worker in _pairs(programs):
        contender = worker.contender
        note = contender.note if producer is worker else ""
        row = Row(label, contender.name, note)
        take = partial(wake_ups, stage, producer, worker, stage.options.tasks, row.latencies)
        planned.add(row, take)
    return [planned]


def _pairs(programs: list[Program]) -> list[tuple[str, Program, Program]]:
    """Every contender with its own client, and asynqpy and Go with each other's."""
    found = [(program.contender.title, program, program) for program in programs]
    known = {program.contender.name: program for program in programs}
    if {"asynqpy", "go"} <= known.keys():
        python, go = known["asynqpy"], known["go"]
        found[2:2] = [
            ("Go client, asynqpy worker", go, python),
            ("asynqpy client, Go worker", python, go),
        ]
    return found


def adjust(options: Options) -> Options:
    """Single tasks take their time: far fewer than elsewhere."""
    if options.quick:
        tasks = min(options.tasks, QUICK_TASKS)
        return replace(options, rounds=1, tasks=tasks, limit=options.limit and QUICK_LIMIT)
    return replace(options, tasks=min(options.tasks, TASKS))


QUESTION = Question("wakeup", "Wake-up of an idle worker", plan, adjust)

if __name__ == "__main__":
    run(QUESTION)
