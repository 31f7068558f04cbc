from __future__ import annotations

from benchmarks import inspecting
from benchmarks.harness.redis_server import BenchRedis


async def test_every_operation_meets_the_tasks_that_it_is_to_meet() -> None:
    with BenchRedis() as server:
        found = [row async for row in inspecting.rows(server.url, 700, 300)]
    assert {row.operation: row.answer for row in found} == {
        "all queues, as for `stats`": 1,
        "one queue, with its memory": 700,
        "the first page of pending": 30,
        "a page in the middle": 30,
        "the last page": 30,
        "all pending, as a stream": 700,
        "delete those that fit: none": 0,
        "delete those that fit: half": 350,
        "run all archived": 300,
        "archive all pending": 650,
        "delete all pending": 700,
    }
    assert all(row.seconds > 0 for row in found)
    # Some of it takes longer than the slow log is told to ignore.
    assert max(row.longest_ms for row in found) > 0.2
