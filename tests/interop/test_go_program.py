"""Go's client, worker and inspector among themselves.

The harness is known to be right before anything is compared with it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.interop.cancel_channel import a_listener
from tests.interop.go_program import GoConflictError, GoDuplicateError, GoError, GoProgram
from tests.topologies.common import CommonRedis

if TYPE_CHECKING:
    from tests.interop.go_records import GoTask


async def test_a_task_goes_through_the_go_worker(go: GoProgram) -> None:
    task = await go.enqueue("ok:1", payload=b"\x00\xff", max_retry=3)
    async with go.worker() as worker:
        start = await worker.event("start", id=task.id)
        await worker.event("end", id=task.id, error="")

    assert (start.type, start.payload, start.queue) == ("ok:1", b"\x00\xff", "default")
    assert (start.retried, start.max_retry) == (0, 3)
    assert start.deadline is not None
    assert (await go.queue()).processed == 1


async def test_every_option_arrives_in_the_record(go: GoProgram) -> None:
    deadline = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)

    task = await go.enqueue(
        "ok:1",
        payload=b"p",
        queue="low",
        id="id 1",
        max_retry=2,
        timeout=timedelta(seconds=90),
        deadline=deadline,
        process_in=100,
        retention=3600,
        unique=10,
    )

    assert await go.task("id 1", "low") == await _only(go, "scheduled", "low")
    assert (task.id, task.queue, task.max_retry, task.state) == ("id 1", "low", 2, "scheduled")
    assert (task.timeout, task.deadline, task.retention) == (90, deadline, 3600)
    assert task.next_process_at is not None
    assert task.next_process_at > datetime.now(UTC) + timedelta(seconds=90)


async def test_headers_are_there_from_0_26_on(go: GoProgram) -> None:
    if not go.has_headers:
        with pytest.raises(GoError, match="no task headers"):
            await go.enqueue("ok:1", headers={"k": "v"})
        return
    task = await go.enqueue("ok:1", headers={"k": "v", "empty": ""})
    async with go.worker() as worker:
        start = await worker.event("start", id=task.id)

    assert task.headers == start.headers == {"k": "v", "empty": ""}


async def test_refusals_are_told_apart(go: GoProgram) -> None:
    await go.enqueue("ok:1", id="a", payload=b"p", unique=60)

    with pytest.raises(GoDuplicateError):
        await go.enqueue("ok:1", payload=b"p", unique=60)
    with pytest.raises(GoConflictError):
        await go.enqueue("ok:2", id="a")
    with pytest.raises(GoError, match="queue name must contain"):
        await go.enqueue("ok:1", queue=" ")


async def test_many_tasks_take_one_call(go: GoProgram) -> None:
    tasks = await go.enqueue_many("ok:n", 50, id="n")

    assert [task.id for task in tasks] == [f"n-{i}" for i in range(50)]
    assert len(await go.tasks("pending")) == 50


async def test_each_kind_of_handler_ends_as_its_name_says(go: GoProgram) -> None:
    failing = await go.enqueue("fail:1", max_retry=0)
    skipped = await go.enqueue("skip:1")
    once = await go.enqueue("failonce:1")
    result = await go.enqueue("result:1", payload=b"r", retention=60)
    slow = await go.enqueue("sleep:1", payload=b"10")
    timed_out = await go.enqueue("hang:1", timeout=1, max_retry=0)
    async with go.worker(retry_delay=0) as worker:
        await worker.event("error", id=failing.id, error="failed on purpose: é")
        await worker.event("error", id=skipped.id)
        await worker.event("end", id=once.id, retried=1, error="")
        await worker.event("end", id=result.id, error="")
        await worker.event("end", id=slow.id, error="")
        await worker.event("error", id=timed_out.id, error="context deadline exceeded")

    assert {task.id for task in await go.tasks("archived")} == {
        failing.id,
        skipped.id,
        timed_out.id,
    }
    assert (await _only(go, "completed")).result == b"r"


async def test_a_running_task_can_be_seen_and_cancelled(
    go: GoProgram, redis_server: CommonRedis
) -> None:
    task = await go.enqueue("hang:1", payload=b"p", queue="high", max_retry=0)
    async with go.worker(queues={"high": 2, "low": 1}, strict=True, concurrency=3) as worker:
        await worker.event("start", id=task.id)
        (server,) = await go.servers()
        assert (server.pid, server.concurrency, server.status) == (worker.pid, 3, "active")
        assert (server.queues, server.strict_priority) == ({"high": 2, "low": 1}, True)
        assert (await _only(go, "active", "high")).id == task.id

        await a_listener(redis_server)
        await go.act("cancel", id=task.id)
        await worker.event("error", id=task.id, error="context canceled")

    assert (await go.task(task.id, "high")).state == "archived"
    assert await go.servers() == []


async def test_the_inspector_acts_on_tasks_and_queues(go: GoProgram) -> None:
    await go.enqueue("ok:1", id="a", process_in=60)
    await go.enqueue("ok:1", id="b", group="g")

    await go.act("run", id="a")
    await go.act("archive", id="a")
    assert (await go.task("a")).state == "archived"
    assert [task.id for task in await go.tasks("aggregating", group="g")] == ["b"]
    await go.act("delete", id="b")
    with pytest.raises(GoError, match="task not found"):
        await go.task("b")
    await go.act("pause")
    assert (await go.queue()).paused
    await go.act("unpause")
    assert not (await go.queue()).paused
    assert await go.queues() == {"default"}


async def test_a_killed_worker_leaves_its_task_active(go: GoProgram) -> None:
    task = await go.enqueue("hang:1")
    async with go.worker() as worker:
        await worker.event("start", id=task.id)
        await worker.kill()
        with pytest.raises(AssertionError, match="ended without end"):
            await worker.event("end", id=task.id)

    assert (await _only(go, "active")).id == task.id


async def _only(go: GoProgram, state: str, queue: str = "default") -> GoTask:
    (task,) = await go.tasks(state, queue)
    return task
