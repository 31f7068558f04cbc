"""Questions at a tiny size, with the real programs."""

from __future__ import annotations

import dataclasses
import os
import signal
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from redis.crc import key_slot

from benchmarks import enqueueing, growth, memory, processing, topologies, wakeup
from benchmarks.harness import records, summary
from benchmarks.harness.contenders import discover
from benchmarks.harness.deployments import CUTS
from benchmarks.harness.installing import Program, install
from benchmarks.harness.latencies import open_loop, wake_ups
from benchmarks.harness.main import Question, answer
from benchmarks.harness.options import GROWTH, QUICK, parse
from benchmarks.harness.processes import NoSuchMode, Process
from benchmarks.harness.records import Measure, Row, Sample
from benchmarks.harness.redis_server import BenchRedis
from benchmarks.harness.rounds import Plan
from benchmarks.harness.stage import Stage
from tests.requires import need_go

TINY = dataclasses.replace(QUICK, rounds=1, tasks=60, fewest=50, limit=0.0)


@pytest.fixture(scope="module")
def redis() -> Iterator[BenchRedis]:
    with BenchRedis() as server:
        yield server


@pytest.fixture
def stage(redis: BenchRedis) -> Stage:
    contenders = discover()
    own = {name: install(contenders[name]) for name in ("asynqpy", "asynqpy_2", "redis_py")}
    return Stage(redis, own, TINY)


@pytest.fixture
def go(stage: Stage) -> Program:
    need_go()
    stage.programs["go"] = install(discover()["go"])
    return stage.programs["go"]


def test_a_question_is_answered_from_the_command_to_the_plot(tmp_path: Path) -> None:
    chosen = dataclasses.replace(TINY, out=tmp_path, only=("asynqpy", "asynqpy_2"))
    (result,) = answer([processing.QUESTION], chosen)
    (measured,) = result.measures
    assert [(row.label, len(row.samples), row.failures) for row in measured.rows] == [
        ("asynqpy", 1, []),
        ("asynqpy, 2 processes", 1, []),
    ]
    assert all(sample["rate"] > 0 for row in measured.rows for sample in row.samples)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"processing.{suffix}" for suffix in ("json", "md", "png", "svg")
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_harness_that_is_ended_ends_its_workers_and_writes_what_it_has(
    tmp_path: Path, number: signal.Signals
) -> None:
    worker: list[Process] = []

    def wait(stage: Stage) -> Sample:
        with stage.worker(stage.programs["asynqpy"], "noop", 1, 0) as process:
            worker.append(process)
            os.kill(os.getpid(), number)
            process.hear(30.0)
        raise AssertionError("nothing ended it")

    def plan(stage: Stage, programs: list[Program]) -> list[Plan]:
        planned = Plan(Measure("m", "M", processing.COLUMNS, []))
        planned.add(Row("first", "first"), lambda: {"rate": 1.0})
        planned.add(Row("second", "second"), partial(wait, stage))
        return [planned]

    before = signal.getsignal(number)
    chosen = dataclasses.replace(TINY, out=tmp_path, only=("asynqpy",))
    with pytest.raises(SystemExit):
        answer([Question("processing", "P", plan)], chosen)
    assert not worker[0].is_running
    assert signal.getsignal(number) == before
    (measured,) = records.load(tmp_path / "processing.json").measures
    assert [len(row.samples) for row in measured.rows] == [1, 0]


def test_sizes_and_measures_may_be_chosen(stage: Stage) -> None:
    flags = ["--concurrency", "7", "--measures", "active", "pending", "--sizes", "100", "10000"]
    stage.options = parse("", flags)
    ours = [stage.programs["asynqpy"]]
    assert [plan.measure.name for plan in processing.plan(stage, ours)] == ["concurrency 7"]
    assert {
        plan.measure.name: [row.label for row in plan.measure.rows]
        for plan in growth.plan(stage, ours)
    } == {"pending": ["10,000 pending"], "active": ["100 active", "10,000 active"]}
    stage.options = TINY
    assert {plan.measure.name for plan in growth.plan(stage, ours)} == set(GROWTH)


def test_go_processes_the_same_tasks(stage: Stage, go: Program) -> None:
    sample = stage.process(go, "noop", 10)
    assert sample["rate"] > 0
    assert sample["tasks"] == 60


def test_what_redis_spends_on_a_task_is_counted(stage: Stage) -> None:
    sample = stage.process(stage.programs["asynqpy"], "noop", 10)
    assert sample["script_us"] > 0
    assert sample["redis_us"] > 0
    assert sample["share"] == pytest.approx(sample["rate"] * sample["redis_us"] / 1e4)


def test_every_way_of_enqueueing_leaves_its_tasks(stage: Stage) -> None:
    for mode in enqueueing.MODES:
        assert enqueueing.enqueue(stage, stage.programs["asynqpy"], mode)["rate"] > 0
        assert stage.redis.count("asynq:{default}:pending") == 60
        assert enqueueing.enqueue(stage, stage.programs["redis_py"], mode)["tasks"] == 60
        assert stage.redis.count("bench") == 60


def test_go_has_no_bulk_way(stage: Stage, go: Program) -> None:
    assert enqueueing.enqueue(stage, go, "concurrent")["rate"] > 0
    with pytest.raises(NoSuchMode):
        enqueueing.enqueue(stage, go, "bulk")


def test_an_idle_worker_is_woken_by_either_client(stage: Stage, go: Program) -> None:
    ours = stage.programs["asynqpy"]
    for producer, worker in ((ours, ours), (go, ours)):
        pool: list[float] = []
        sample = wake_ups(stage, producer, worker, 3, pool, gaps=(0.01, 0.05))
        assert len(pool) == 3
        assert 0 < sample["p50"] <= sample["p99"] <= sample["max"]
    assert {label for label, *_ in wakeup._pairs([ours, go])} == {
        "asynqpy",
        "asynq (Go)",
        "Go client, asynqpy worker",
        "asynqpy client, Go worker",
    }


def test_an_open_loop_measures_every_task(stage: Stage) -> None:
    assert open_loop(stage, stage.programs["asynqpy"], 100, 1)["tasks"] == 100


def test_memory_is_that_of_all_processes(stage: Stage) -> None:
    one = memory.at_rest(stage, stage.programs["asynqpy"])["mb"]
    assert 5 < one < memory.at_rest(stage, stage.programs["asynqpy_2"])["mb"]


@pytest.mark.parametrize(
    ("take", "size"),
    [
        (growth.beside_pending, 100),
        (growth.beside_scheduled, 100),
        (growth.beside_active, 100),
        (growth.over_queues, 3),
        (growth.with_payload, 1_000),
        (growth.with_workers, 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_size_of_growth_is_measured(stage: Stage, take: growth.Take, size: int) -> None:
    assert take(stage, stage.programs["asynqpy"], size)["rate"] > 0


@pytest.mark.parametrize("label", topologies.DEPLOYMENTS)
def test_tasks_are_enqueued_and_processed_through_every_topology(stage: Stage, label: str) -> None:
    ours, start = stage.programs["asynqpy"], topologies.DEPLOYMENTS[label]
    for *_, columns, take in topologies.MEASURES:
        sample = topologies.through(start, stage, ours, take, 12)
        assert sample.keys() >= {column.key for column in columns}
        assert sample["rate"] > 0


def test_a_cluster_has_four_of_twelve_queues_on_each_node() -> None:
    slots = [key_slot(f"{{q{n}}}".encode()) for n in range(12)]
    nodes = Counter(bisect_right(CUTS, slot) for slot in slots)
    assert list(nodes.values()) == [4, 4, 4]


def test_redis_keeps_a_file_only_while_that_is_measured(stage: Stage) -> None:
    settings = growth.PERSISTENCE["append-only file, always"]
    assert growth.persisted(stage, stage.programs["asynqpy"], settings)["rate"] > 0
    assert stage.redis.info("persistence")["aof_enabled"] == 0


def test_commands_of_scripts_and_of_the_watch_itself_are_not_counted_as_sent(stage: Stage) -> None:
    assert stage.redis.commands_sent(0.05) == 0


def test_the_clients_fill_is_timed_by_the_tasks_that_fit_the_pace(stage: Stage) -> None:
    stage.options = dataclasses.replace(TINY, tasks=20_000, seconds=2.0, fewest=500)
    assert stage.tasks_for("slow", lambda: 100.0) == 500
    assert stage.tasks_for("steady", lambda: 1_234.0) == 2_400
    assert stage.tasks_for("fast", lambda: 1e6) == 20_000
    assert stage.tasks_for("slow", lambda: 1e6) == 500


def test_the_rows_that_promises_name_are_measured(stage: Stage) -> None:
    stage.options = dataclasses.replace(TINY, quick=False)
    rows = {
        (plan.measure.name, row.label)
        for plan in growth.plan(stage, [stage.programs["asynqpy"]])
        for row in plan.measure.rows
    }
    assert rows >= {
        ("processes", "2 processes"),
        ("processes", "1 process"),
        ("pending", "1,000,000 pending"),
        ("pending", "10,000 pending"),
        ("active", "10,000 active"),
        ("active", "100 active"),
        ("idle", "1,000 queues"),
        ("idle", "1 queue"),
    }
    rows = {
        (plan.measure.name, row.label)
        for plan in topologies.plan(stage, [stage.programs["asynqpy"]])
        for row in plan.measure.rows
    }
    assert {name for name, _ in rows} >= {
        "processing, one queue",
        "processing, 12 queues",
        "concurrent, 12 queues",
    }
    assert {label for _, label in rows} >= {summary.ALONE, summary.CLUSTER}
