"""What does the way cost: no-op tasks and enqueueing through Sentinel and Cluster, against a Redis alone?

    python -m benchmarks.topologies [--quick] [--rounds N] [--tasks N]

asynqpy alone, concurrency 50, with one queue, which a cluster keeps on one of its nodes, and with twelve, four on each.
Each sample has servers of its own, that nothing else stands beside on the machine; a round goes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from benchmarks.harness.deployments import cluster, sentinel
from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.redis_server import BenchRedis, Running, standalone
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage
from benchmarks.harness.summary import ALONE, CLUSTER

CONCURRENCY = 50

Start = Callable[[], AbstractContextManager[Running]]
Take = Callable[[Stage, Program, int], Sample]

#: What stands in the tables, and how it is started.
DEPLOYMENTS: dict[str, Start] = {ALONE: standalone, "Sentinel": sentinel, CLUSTER: cluster}

QUEUES = {1: "one queue", 12: "12 queues"}

RATE = Column("rate", "tasks/s")
TASKS = Column("tasks", "tasks of a round")
REDIS = Column("redis_us", "CPU of all Redis, µs/task", 1)

REMARK = (
    "On one machine the servers share its cores with each other and with the worker or producer."
)


def process(stage: Stage, program: Program, queues: int) -> Sample:
    tasks, spread = stage.options.tasks, {"BENCH_QUEUES": str(queues)}
    stage.fill(program, tasks, spread)
    return stage.work(program, "noop", CONCURRENCY, tasks, spread)


def enqueue(mode: str, stage: Stage, program: Program, queues: int) -> Sample:
    tasks, spread = stage.options.tasks, {"BENCH_QUEUES": str(queues)}
    seconds = float(stage.produce(program, mode, tasks, environment=spread)["seconds"])
    return {"rate": tasks / seconds, "tasks": tasks}


#: What is measured: its name, its title, its columns, and how a sample is taken.
MEASURES: tuple[tuple[str, str, list[Column], Take], ...] = (
    ("processing", "No-op tasks", [RATE, REDIS, TASKS], process),
    ("concurrent", "50 coroutines enqueue", [RATE, TASKS], partial(enqueue, "concurrent")),
    ("bulk", "Enqueueing in bulk", [RATE, TASKS], partial(enqueue, "bulk")),
)


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    return [
        _plan(stage, program, measure, queues)
        for program in programs
        for measure in MEASURES
        for queues in QUEUES
    ]


def _plan(
    stage: Stage, program: Program, of: tuple[str, str, list[Column], Take], queues: int
) -> Plan:
    name, title, columns, take = of
    measure = Measure(f"{name}, {QUEUES[queues]}", f"{title}, {QUEUES[queues]}", columns, [])
    measure.reference = ALONE
    measure.remark = REMARK
    planned = Plan(measure)
    for label, start in DEPLOYMENTS.items():
        row = Row(label, program.contender.name)
        planned.add(row, partial(through, start, stage, program, take, queues))
    return planned


def through(start: Start, stage: Stage, program: Program, take: Take, queues: int) -> Sample:
    """A sample that is taken through servers of its own."""
    with BenchRedis(start) as redis:
        return take(replace(stage, redis=redis), program, queues)


QUESTION = Question("topologies", "Through Sentinel and Cluster", plan, across=True)

if __name__ == "__main__":
    run(QUESTION)
