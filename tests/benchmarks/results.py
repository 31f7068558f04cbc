"""A made-up result, for tests of what is written from one."""

from __future__ import annotations

from benchmarks.harness.records import Column, Measure, Result, Row

OURS, GO, PEER = "asynqpy", "asynq (Go)", "snail"


def measure(name: str = "concurrency 50") -> Measure:
    return Measure(
        name,
        "No-op tasks",
        [Column("rate", "tasks/s"), Column("share", "% of Redis' limit")],
        [
            Row(OURS, "asynqpy", "ours", [rates(40_000.0), rates(30_000.0), rates(35_000.0)]),
            Row(GO, "go", "theirs", [rates(7_000.0), rates(7_000.0), rates(6_000.0)]),
            Row(PEER, "snail", "slow | steady", [rates(100.0)], ["round 2: it fell asleep"]),
            Row("ghost", "ghost", "", [], ["round 1: never seen"]),
        ],
        GO,
        "Go",
    )


def rates(rate: float) -> dict[str, float]:
    return {"rate": rate, "share": rate / 1_000}


def result(*measures: Measure, question: str = "processing") -> Result:
    return Result(
        question=question,
        title="No-op tasks processed per second",
        date="2030-01-02 03:04 UTC",
        command="python -m benchmarks.processing",
        rounds=3,
        machine={
            "cores": "2",
            "processor": "of sand",
            "memory": "4 GiB",
            "system": "Linux 9",
            "python": "3.11.0",
            "redis": "Redis 7.0.0",
        },
        versions={OURS: "1.0", GO: "0.26.0"},
        skipped={"absent": "no such package"},
        measures=list(measures) or [measure()],
    )
