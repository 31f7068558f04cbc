"""A Go and a Python worker on one queue, and what becomes of the tasks of one that is killed."""

from __future__ import annotations

from datetime import UTC, datetime

from asynqpy import Client, Task, TaskInfo
from tests.eventually import eventually
from tests.interop.go_program import GoProgram
from tests.interop.python_worker import python_process, python_worker
from tests.topologies.common import CommonRedis

LEASE = "asynq:{default}:lease"


async def test_a_go_and_a_python_worker_run_10_000_tasks_exactly_once(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    # All are there before the first is taken: else the faster worker would have them all.
    await go.act("pause")
    ids = [task.id for task in await go.enqueue_many("sleep:go", 5_000, payload=b"5")]
    infos = await client.enqueue_many([Task("sleep:python", b"5") for _ in range(5_000)])
    ids += [info.id for info in infos if isinstance(info, TaskInfo)]

    async with go.worker() as other, python_process(redis_url) as ours:
        await go.act("unpause")
        await eventually(lambda: len(other.ids("end")) + len(ours.ids("end")) >= 10_000, within=60)

    assert sorted(other.ids("start") + ours.ids("start")) == sorted(ids)
    assert len(other.ids("start")) > 500
    assert len(ours.ids("start")) > 500
    info = await go.queue()
    assert (info.processed, info.failed, info.size) == (10_000, 0, 0)


async def test_python_takes_over_the_tasks_of_a_killed_go_worker(
    go: GoProgram, redis_url: str, redis_server: CommonRedis
) -> None:
    tasks = await go.enqueue_many("hang-in-go:1", 5)
    async with go.worker(concurrency=3) as victim:
        await eventually(lambda: len(victim.ids("start")) == 3)
        await victim.kill()
    _expire_leases(redis_server)

    async with python_worker(redis_url, retry_delay=lambda *_: 0) as heir:
        for task in tasks:
            await heir.event("end", id=task.id, error="")

    assert sorted(heir.ids("start")) == sorted(task.id for task in tasks)
    assert (await go.queue()).size == 0


async def test_go_takes_over_the_tasks_of_a_killed_python_worker(
    go: GoProgram, client: Client, redis_url: str, redis_server: CommonRedis
) -> None:
    infos = await client.enqueue_many([Task("hang-in-python:1") for _ in range(15)])
    async with python_process(redis_url) as victim:
        await eventually(lambda: len(victim.ids("start")) == 10, within=10)
        await victim.kill()
    assert not any(task.is_orphaned for task in await go.tasks("active"))
    _expire_leases(redis_server)
    assert [task.is_orphaned for task in await go.tasks("active")] == [True] * 10

    async with go.worker(retry_delay=0) as heir:
        for info in infos:
            assert isinstance(info, TaskInfo)
            await heir.event("end", id=info.id, error="")

    assert len(heir.ids("start")) == 15
    assert (await go.queue()).size == 0


def _expire_leases(redis_server: CommonRedis) -> None:
    """Make the leases two minutes older than they are.

    A dead worker's tasks are free once its leases have run out, 30 s, and another 30 s of grace;
    both recoverers look when their server starts, so that it needs no waiting after this.
    """
    long_ago = str(int(datetime.now(UTC).timestamp()) - 120)
    for task_id in redis_server.ask("ZRANGE", LEASE, "0", "-1"):
        redis_server.ask("ZADD", LEASE, long_ago, task_id.decode())
