"""How long do tasks wait that come at a fixed rate, whether or not the worker keeps up?

    python -m benchmarks.latency [--quick] [--rounds N] [--contenders asynqpy go ...]

An open loop: a task's time runs from when it was meant to be sent, so that a stall of producer, Redis or worker counts
for every task that it delays. Producer and worker are processes of their own on one machine. A contender that needs
more than three times the time of the run does not keep up, and has no figure.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness.installing import Program
from benchmarks.harness.latencies import COLUMNS, open_loop
from benchmarks.harness.main import Question, run
from benchmarks.harness.records import Measure, Row
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage

#: Tasks a second, and how long they come.
RATES, SECONDS = (100, 500, 2_000), 8
QUICK_RATES, QUICK_SECONDS = (500,), 3


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    if stage.options.quick:
        return [_at(rate, QUICK_SECONDS, stage, programs) for rate in QUICK_RATES]
    return [_at(rate, SECONDS, stage, programs) for rate in RATES]


def _at(rate: int, seconds: int, stage: Stage, programs: list[Program]) -> Plan:
    title = f"{rate:,} tasks/s for {seconds} s, concurrency 50"
    measure = Measure(f"{rate} a second", title, COLUMNS, [], "asynq (Go)", "Go")
    measure.less_is_better = True
    planned = Plan(measure)
    for program in programs:
        contender = program.contender
        row = Row(contender.title, contender.name, contender.note)
        planned.add(row, partial(open_loop, stage, program, rate, seconds))
    return planned


QUESTION = Question("latency", "Latency at a fixed rate", plan)

if __name__ == "__main__":
    run(QUESTION)
