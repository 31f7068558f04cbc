"""How much memory does a worker take, at rest and under load?

    python -m benchmarks.memory [--quick] [--rounds N] [--contenders asynqpy go ...]

Of the whole family of processes that the worker consists of; shared pages count once (PSS, on Linux). At rest: 2 s
after it is ready, nothing to do. Under load: the most while it empties a queue of no-op tasks at concurrency 50.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.harness.footprint import Peak, memory_mb
from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import TRIAL, Stage

CONCURRENCY = 50

#: Seconds after which a worker that has nothing to do is at rest.
REST = 2.0

COLUMNS = [Column("mb", "MB", 1), Column("tasks", "tasks of a round")]


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    rest = Measure("rest", "Worker at rest", COLUMNS[:1], [], "asynq (Go)", "Go")
    load = Measure("load", f"Worker under load, concurrency {CONCURRENCY}", COLUMNS, [])
    load.reference, load.reference_title = rest.reference, rest.reference_title
    plans = [Plan(rest), Plan(load)]
    for planned, take in zip(plans, (at_rest, under_load), strict=True):
        planned.measure.less_is_better = True
        for program in programs:
            contender = program.contender
            row = Row(contender.title, contender.name, contender.note)
            planned.add(row, partial(take, stage, program))
    return plans


def at_rest(stage: Stage, program: Program) -> Sample:
    stage.redis.flush()
    with stage.worker(program, "noop", CONCURRENCY, 0) as worker:
        time.sleep(REST)
        return {"mb": memory_mb(worker.pid)}


def under_load(stage: Stage, program: Program) -> Sample:
    def run(tasks: int) -> Sample:
        stage.fill(program, tasks)
        with stage.worker(program, "noop", CONCURRENCY, tasks) as worker, Peak(worker.pid) as peak:
            seconds = float(worker.answer(stage.patience)["seconds"])
        return {"mb": peak.mb, "tasks": tasks, "rate": tasks / seconds}

    key = f"{program.contender.name} memory"
    return run(stage.tasks_for(key, lambda: run(min(TRIAL, stage.options.tasks))["rate"]))


QUESTION = Question("memory", "Memory of a worker", plan)

if __name__ == "__main__":
    run(QUESTION)
