"""The doctor heals while clients enqueue and servers work: it finds nothing where nothing is wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, Doctor, DoctorReport, Task
from tests.acceptance.serving import serving, without_debugging
from tests.damage import (
    active_task_in_no_list,
    active_task_without_a_lease,
    pending_task_in_no_list,
)
from tests.eventually import eventually
from tests.redis_state import invariants, task_hash

TASKS = 3_000
BATCH = 100


class Work:
    """A handler that fails a tenth of the tasks once, and knows how often each ran."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    async def handle(self, task: ActiveTask) -> None:
        self.runs[task.id] += 1
        await asyncio.sleep(0)
        if task.type == "fail-once" and not task.retried:
            raise OSError("try again")

    def of_clients(self) -> int:
        """Runs of the tasks that were enqueued, not those of the damaged one."""
        return self.runs.total() - self.runs["bad"]


def batches() -> Iterator[list[Task]]:
    kinds = [
        {"type": "plain"},
        {"type": "kept", "retention": 600},
        {"type": "unique", "unique": 600},
        {"type": "soon", "process_in": 1},
        {"type": "fail-once"},
    ]
    for start in range(0, TASKS, BATCH):
        ids = range(start, start + BATCH)
        yield [Task(**kinds[i % 5], payload={"n": i}, task_id=f"t{i}") for i in ids]  # type: ignore[arg-type]


async def produce(client: Client) -> None:
    for batch in batches():
        await client.enqueue_many(batch)
        await asyncio.sleep(0.01)


async def is_gone(redis: Redis, task_id: str) -> bool:
    """Its run has been settled too."""
    return not await task_hash(redis, task_id)


async def heal_until(doctor: Doctor, is_over: asyncio.Event) -> list[DoctorReport]:
    reports = []
    while not is_over.is_set():
        reports.append(await doctor.heal())
    return reports


async def test_doctor_finds_nothing_among_tasks_that_come_and_go(
    redis_url: str, redis: Redis
) -> None:
    without_debugging()
    work, is_over = Work(), asyncio.Event()
    async with Client(redis_url) as client, Doctor(redis_url) as doctor:
        healing = asyncio.create_task(heal_until(doctor, is_over))
        async with serving(redis_url, work.handle, concurrency=50, retry_delay=_at_once):
            await produce(client)
            await eventually(lambda: work.runs.total() == TASKS + TASKS // 5, within=60)
        is_over.set()
        reports = await healing
    assert [finding for report in reports for finding in report.findings] == []
    assert len(reports) > 3
    assert max(work.runs.values()) == 2
    assert sum(count == 2 for count in work.runs.values()) == TASKS // 5
    assert await invariants(redis) == []


async def test_damage_among_tasks_that_come_and_go_is_healed_and_nothing_else(
    redis_url: str, redis: Redis
) -> None:
    without_debugging()
    work, is_over = Work(), asyncio.Event()
    async with Client(redis_url) as client, Doctor(redis_url) as doctor:
        healing = asyncio.create_task(heal_until(doctor, is_over))
        async with serving(redis_url, work.handle, concurrency=50, retry_delay=_at_once):
            producing = asyncio.create_task(produce(client))
            for inflict in (
                active_task_in_no_list,
                active_task_without_a_lease,
                pending_task_in_no_list,
            ):
                del work.runs["bad"]
                await inflict(redis)
                await eventually(lambda: work.runs["bad"] or healing.done(), within=30)
                await eventually(lambda: is_gone(redis, "bad"), within=30)
            await producing
            await eventually(lambda: work.of_clients() == TASKS + TASKS // 5, within=60)
        is_over.set()
        reports = await healing
        reports.append(await doctor.heal())
    assert {finding.subject for report in reports for finding in report.findings} == {"bad"}
    assert len(work.runs) == TASKS + 1
    assert work.of_clients() == TASKS + TASKS // 5
    assert await invariants(redis) == []


def _at_once(retried: int, error: BaseException, task: ActiveTask) -> float:
    return 0.0
