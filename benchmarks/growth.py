"""What does a task cost as the work grows: more pending, scheduled, active, more queues, bytes, workers?

    python -m benchmarks.growth [--quick] [--rounds N] [--measures pending ...] [--sizes N ...]

asynqpy alone, no-op tasks at concurrency 50. What grows lies beside the tasks that are timed and stays there: a backlog
of a million is as long at the end as at the start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial

from benchmarks.harness.footprint import cpu_seconds
from benchmarks.harness.installing import Program
from benchmarks.harness.main import Question, run
from benchmarks.harness.options import GROWTH
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import READY, Stage

CONCURRENCY = 50

RATE = [
    Column("rate", "tasks/s"),
    Column("redis_us", "Redis' CPU, µs/task", 1),
    Column("tasks", "tasks of a round"),
]
PAYLOAD = [*RATE, Column("mb", "MB/s", 1), Column("enqueued", "enqueued in bulk, tasks/s")]
IDLE = [
    Column("cpu_ms", "CPU of worker and Redis, ms per s", 2),
    Column("redis_ms", "of it Redis, ms per s", 2),
    Column("sent", "commands sent per s", 1),
]

#: Payloads, bytes.
PAYLOADS = (100, 1_000, 10_000, 100_000, 1_000_000)

#: Settings of Redis by what they are called in the table.
PERSISTENCE: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "append-only file, everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "append-only file, always": {"appendonly": "yes", "appendfsync": "always"},
}

#: Tasks that one process of the fleet holds at most.
HELD = 5_000

#: Seconds in which the scheduled tasks do not become due.
FAR = "86400"

#: Seconds in which a worker settles before its idleness is measured, in which at most its commands are watched, and of
#: the measurement at least (three times ``--seconds`` else).
_SETTLE, _WATCH = 2.0, 10.0
_SHORTEST = 5.0

#: Bytes of payload of a round at most, and the fewest tasks of it.
_MOST_BYTES, _FEWEST = 100_000_000, 100

_ONE = {"queues": "queue", "processes": "process"}

Take = Callable[[Stage, Program, int], Sample]


def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
    quick = stage.options.quick
    sizes = (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000)
    found = []
    for program in programs:
        made = partial(_plan, stage, program)
        found += [
            made("pending", "pending", sizes, 10_000, beside_pending),
            made("scheduled", "scheduled", (0, 10_000, 100_000), 0, beside_scheduled),
            made("active", "active", (100, 1_000, 10_000), 100, beside_active),
            made("queues", "queues", (1, 10, 100, 1_000), 1, over_queues),
            made("idle", "queues", (1, 10, 100, 1_000), 1, idle),
            made("payload", "bytes", PAYLOADS, 100, with_payload),
            made("processes", "processes", (1, 2, 4, 8), 1, with_workers),
        ]  # fmt: skip
        found.append(_persistence(stage, program))
    wanted = stage.options.measures or GROWTH
    return [planned for planned in found if planned.measure.name in wanted and planned.takes]


def _plan(
    stage: Stage,
    program: Program,
    name: str,
    unit: str,
    sizes: Iterable[int],
    reference: int,
    take: Take,
) -> Plan:
    columns = {"idle": IDLE, "payload": PAYLOAD}.get(name, RATE)
    measure = Measure(name, GROWTH[name], columns, [], _label(reference, unit))
    measure.less_is_better = name == "idle"
    planned = Plan(measure)
    chosen = stage.options.sizes
    for size in (size for size in sizes if not chosen or size in chosen):
        row = Row(_label(size, unit), program.contender.name)
        planned.add(row, partial(take, stage, program, size))
    return planned


def _label(size: int, unit: str) -> str:
    return f"{size:,} {_ONE.get(unit, unit) if size == 1 else unit}"


def _persistence(stage: Stage, program: Program) -> Plan:
    planned = _plan(stage, program, "persistence", "", (), 0, with_workers)
    planned.measure.reference = next(iter(PERSISTENCE))
    planned.measure.reference_title = "none"
    for label, settings in PERSISTENCE.items():
        take = partial(persisted, stage, program, settings)
        planned.add(Row(label, program.contender.name), take)
    return planned


def persisted(stage: Stage, program: Program, settings: Mapping[str, str]) -> Sample:
    """An append-only file, on whatever disk temporary files are."""
    stage.fill(program, stage.options.tasks)
    with stage.redis.configured(settings):
        return _work(stage, program)


def _work(stage: Stage, program: Program, tasks: int = 0, **environment: str) -> Sample:
    asked = tasks or stage.options.tasks
    return stage.work(program, "noop", CONCURRENCY, asked, environment)


def beside_pending(stage: Stage, program: Program, size: int) -> Sample:
    stage.fill(program, size + stage.options.tasks)
    return _work(stage, program)


def beside_scheduled(stage: Stage, program: Program, size: int) -> Sample:
    stage.fill(program, stage.options.tasks)
    if size:
        stage.add(program, size, {"BENCH_DELAY": FAR})
    return _work(stage, program)


def beside_active(stage: Stage, program: Program, size: int) -> Sample:
    """Other servers hold tasks of the queue, extend their leases and beat, as a fleet does."""
    stage.fill(program, size)
    with ExitStack() as fleet:
        for start in range(0, size, HELD):
            count = min(HELD, size - start)
            holder = fleet.enter_context(stage.worker(program, "hold", count, 0))
            fleet.callback(holder.kill)  # it would wait for its handlers
            holder.expect("held", READY)
        stage.add(program, stage.options.tasks)
        return _work(stage, program)


def over_queues(stage: Stage, program: Program, size: int) -> Sample:
    stage.fill(program, stage.options.tasks, {"BENCH_QUEUES": str(size)})
    return _work(stage, program, BENCH_QUEUES=str(size))


def idle(stage: Stage, program: Program, size: int) -> Sample:
    """A server whose queues were used and are empty."""
    queues = {"BENCH_QUEUES": str(size)}
    window = max(_SHORTEST, 3.0 * stage.options.seconds)
    stage.fill(program, size, queues)
    _work(stage, program, size, **queues)
    with stage.worker(program, "noop", CONCURRENCY, 0, queues) as worker:
        time.sleep(_SETTLE)
        stage.redis.start_counting()
        before, begun = cpu_seconds(worker.pid), time.monotonic()
        time.sleep(window)
        spent, after = stage.redis.spent(), cpu_seconds(worker.pid)
        seconds = time.monotonic() - begun
        sent = stage.redis.commands_sent(min(window, _WATCH)) / min(window, _WATCH)
    redis_ms = spent.cpu_us / 1e3 / seconds
    worker_ms = (after - before) * 1e3 / seconds
    return {"cpu_ms": redis_ms + worker_ms, "redis_ms": redis_ms, "sent": sent}


def with_payload(stage: Stage, program: Program, size: int) -> Sample:
    tasks = min(stage.options.tasks, max(_FEWEST, _MOST_BYTES // size))
    enqueuing = stage.fill(program, tasks, {"BENCH_PAYLOAD": str(size)})
    sample = _work(stage, program, tasks)
    return {**sample, "mb": sample["rate"] * size / 1e6, "enqueued": tasks / enqueuing}


def with_workers(stage: Stage, program: Program, size: int) -> Sample:
    """Three times the tasks, so that the start of the processes does not weigh."""
    tasks = 3 * stage.options.tasks
    stage.fill(program, tasks)
    return _work(stage, program, tasks, BENCH_PROCESSES=str(size))


QUESTION = Question("growth", "The cost of a task as the work grows", plan)

if __name__ == "__main__":
    run(QUESTION)
