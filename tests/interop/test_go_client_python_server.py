"""Tasks that Go's client enqueued, processed by asynqpy's server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from asynqpy import ActiveTask, Server
from tests.eventually import eventually
from tests.interop.cancel_channel import a_listener
from tests.interop.go_program import EnqueueOptions, GoProgram
from tests.interop.python_worker import python_worker
from tests.topologies.common import CommonRedis

if TYPE_CHECKING:
    from redis.asyncio import Redis


async def test_python_receives_a_task_as_it_was_sent(go: GoProgram, redis_url: str) -> None:
    await go.enqueue(
        "ok:é", payload=b"\x00\xff", queue="low", id="id 1", max_retry=3, timeout=90, unique=60
    )

    async with python_worker(redis_url, queues={"low": 1}) as worker:
        start = await worker.event("start")
        await worker.event("end", error="")

    assert (start.id, start.type, start.queue) == ("id 1", "ok:é", "low")
    assert (start.payload, start.retried, start.max_retry) == (b"\x00\xff", 0, 3)
    assert start.deadline is not None
    assert start.deadline <= datetime.now(UTC) + timedelta(seconds=91)


async def test_nothing_is_left_of_a_task_that_python_has_done(
    go: GoProgram, redis_url: str, redis: Redis
) -> None:
    task = await go.enqueue("ok:1", unique=60)

    async with python_worker(redis_url) as worker:
        await worker.event("end", id=task.id, error="")

    names = {name.decode() async for name in redis.scan_iter("asynq:{default}:*")}
    assert all(name.startswith("asynq:{default}:processed") for name in names), names
    info = await go.queue()
    assert (info.processed, info.processed_total, info.failed, info.size) == (1, 1, 0, 0)


async def test_python_runs_a_batch_of_tasks_once_each(go: GoProgram, redis_url: str) -> None:
    tasks = await go.enqueue_many("ok:n", 100, queue="high")
    tasks += await go.enqueue_many("ok:n", 100, queue="low")

    async with python_worker(redis_url, queues={"high": 2, "low": 1}) as worker:
        await eventually(lambda: len(worker.ids("end")) >= 200)

    expected = sorted(task.id for task in tasks)
    assert sorted(worker.ids("start")) == sorted(worker.ids("end")) == expected


async def test_python_runs_a_delayed_task_when_it_is_due(go: GoProgram, redis_url: str) -> None:
    task = await go.enqueue("ok:1", process_in=1.5)

    async with python_worker(redis_url) as worker:
        await worker.event("start", id=task.id)
        started_at = datetime.now(UTC)

    assert task.next_process_at is not None
    # The wire holds whole seconds.
    assert started_at >= task.next_process_at.replace(microsecond=0)


async def test_tasks_of_go_wake_an_idle_server_that_hardly_polls(
    go: GoProgram, redis_url: str
) -> None:
    done: list[str] = []

    async def handler(task: ActiveTask) -> None:
        done.append(task.id)

    server = Server(redis_url, task_check_interval=300, delayed_task_check_interval=300)
    async with server.running(handler):
        await eventually(lambda: not server._processor._arrivals.promising)
        late = await go.enqueue("ok:1", process_in=600)
        delayed = await go.enqueue("ok:1", process_in=1.5)
        task = await go.enqueue("ok:1")
        await eventually(lambda: done == [task.id])
        await eventually(lambda: done == [task.id, delayed.id], within=10)
        assert late.id not in done


async def test_python_retries_and_then_archives_a_failing_task(
    go: GoProgram, redis_url: str
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    task = await go.enqueue("fail:1", max_retry=1)

    async with python_worker(redis_url, retry_delay=lambda *_: 0) as worker:
        await worker.event("error", id=task.id, retried=0)
        await worker.event("error", id=task.id, retried=1)

    task = await go.task(task.id)
    assert (task.state, task.retried, task.max_retry) == ("archived", 1, 1)
    assert task.last_error == "OnPurposeError: failed on purpose: é"
    assert task.last_failed_at is not None
    assert before <= task.last_failed_at <= datetime.now(UTC)
    info = await go.queue()
    assert (info.processed, info.failed) == (2, 2)


async def test_python_keeps_a_task_and_its_result_for_the_retention(
    go: GoProgram, redis_url: str
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    task = await go.enqueue("result:1", payload=b"\x00r", retention=3600)

    async with python_worker(redis_url) as worker:
        await worker.event("end", id=task.id, error="")

    task = await go.task(task.id)
    assert (task.state, task.result, task.retention) == ("completed", b"\x00r", 3600)
    assert task.completed_at is not None
    # Our clock is that of Redis, which is known to within half a round trip.
    assert before <= task.completed_at <= datetime.now(UTC) + timedelta(seconds=1)


async def test_python_keeps_the_headers_over_a_retry(go: GoProgram, redis_url: str) -> None:
    headers = {"trace": "é", "empty": ""}
    options = EnqueueOptions(headers=headers) if go.has_headers else EnqueueOptions()
    task = await go.enqueue("failonce:1", **options)

    async with python_worker(redis_url, retry_delay=lambda *_: 0) as worker:
        first = await worker.event("start", id=task.id, retried=0)
        second = await worker.event("start", id=task.id, retried=1)
        await worker.event("end", id=task.id, error="")

    assert first.headers == second.headers == (headers if go.has_headers else None)


async def test_python_stops_a_task_at_its_timeout(go: GoProgram, redis_url: str) -> None:
    task = await go.enqueue("hang:1", timeout=1, max_retry=0)

    async with python_worker(redis_url) as worker:
        start = await worker.event("start", id=task.id)
        await worker.event("error", id=task.id)

    assert start.deadline is not None
    # The worker goes by Redis' clock, of which it knows as much as a round trip lets it.
    until_deadline = start.deadline - datetime.now(UTC)
    assert timedelta(seconds=-10) <= until_deadline <= timedelta(seconds=0.5)
    task = await go.task(task.id)
    # Go's own words, which dashboards and alerts look for.
    assert (task.state, task.last_error) == ("archived", "context deadline exceeded")


async def test_python_keeps_to_the_deadline(go: GoProgram, redis_url: str) -> None:
    deadline = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    task = await go.enqueue("hang:1", deadline=deadline, max_retry=0)

    async with python_worker(redis_url) as worker:
        assert (await worker.event("start", id=task.id)).deadline == deadline
        await worker.event("error", id=task.id)

    assert (await go.task(task.id)).state == "archived"


async def test_a_task_in_a_python_server_can_be_cancelled_from_go(
    go: GoProgram, redis_server: CommonRedis, redis_url: str
) -> None:
    retried = await go.enqueue("hang:1")
    archived = await go.enqueue("hang:2", max_retry=0)
    other = await go.enqueue("sleep:1", payload=b"500")
    async with python_worker(redis_url) as worker:
        for task in (retried, archived, other):
            await worker.event("start", id=task.id)
        await a_listener(redis_server)
        await go.act("cancel", id=retried.id)
        await go.act("cancel", id=archived.id)
        await worker.event("error", id=retried.id)
        await worker.event("error", id=archived.id)
        await worker.event("end", id=other.id, error="")

    assert (await go.task(retried.id)).state == "retry"
    task = await go.task(archived.id)
    assert (task.state, task.last_error) == ("archived", "context canceled")


async def test_a_queue_that_go_has_paused_rests_until_go_resumes_it(
    go: GoProgram, redis_url: str
) -> None:
    resting = await go.enqueue("ok:1", queue="resting")
    await go.act("pause", queue="resting")

    async with python_worker(redis_url, queues={"resting": 9, "busy": 1}) as worker:
        await go.enqueue_many("ok:1", 20, queue="busy")
        await eventually(lambda: len(worker.ids("end")) == 20)
        assert resting.id not in worker.ids("start")
        await go.act("unpause", queue="resting")
        await worker.event("end", id=resting.id, within=3)
