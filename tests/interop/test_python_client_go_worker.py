"""Tasks that asynqpy enqueued, processed by Go's worker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from asynqpy import Client, Task, TaskInfo
from asynqpy.broker.broker import Broker
from tests.eventually import eventually
from tests.interop.cancel_channel import a_listener
from tests.interop.go_program import GoProgram
from tests.topologies.common import CommonRedis

if TYPE_CHECKING:
    from redis.asyncio import Redis


async def test_go_receives_a_task_as_it_was_sent(go: GoProgram, client: Client) -> None:
    task = Task("ok:é", b"\x00\xff", queue="low", max_retry=3, task_id="id 1", timeout=90)
    info = await client.enqueue(task)

    async with go.worker(queues={"low": 1}) as worker:
        start = await worker.event("start")
        await worker.event("end", error="")

    assert (start.id, start.type, start.queue) == (info.id, "ok:é", "low")
    assert (start.payload, start.retried, start.max_retry) == (b"\x00\xff", 0, 3)
    assert start.deadline is not None
    assert start.deadline <= datetime.now(UTC) + timedelta(seconds=90)


async def test_nothing_is_left_of_a_task_that_go_has_done(
    go: GoProgram, client: Client, redis: Redis
) -> None:
    await client.enqueue(Task("ok:1", {"user_id": 42}), unique=60)

    async with go.worker() as worker:
        assert (await worker.event("start")).payload == b'{"user_id":42}'

    names = {name.decode() async for name in redis.scan_iter("asynq:{default}:*")}
    assert all(name.startswith("asynq:{default}:processed") for name in names), names


async def test_go_runs_a_batch_of_tasks_once_each(go: GoProgram, client: Client) -> None:
    infos = await client.enqueue_many(
        [Task("ok:n", str(n), queue=("high", "low")[n % 2]) for n in range(200)]
    )

    async with go.worker(queues={"high": 2, "low": 1}) as worker:
        await eventually(lambda: len(worker.ids("end")) >= 200)

    expected = sorted(info.id for info in infos if isinstance(info, TaskInfo))
    assert sorted(worker.ids("start")) == sorted(worker.ids("end")) == expected


async def test_go_runs_a_delayed_task_when_it_is_due(go: GoProgram, client: Client) -> None:
    info = await client.enqueue(Task("ok:1"), process_in=1.5)
    assert (await go.task(info.id)).state == "scheduled"

    async with go.worker() as worker:
        await worker.event("start", id=info.id)
        started_at = datetime.now(UTC)

    assert info.next_process_at is not None
    # The wire holds whole seconds.
    assert started_at >= info.next_process_at.replace(microsecond=0)


async def test_go_retries_and_then_archives_a_failing_task(go: GoProgram, client: Client) -> None:
    info = await client.enqueue(Task("fail:1", max_retry=1))

    async with go.worker(retry_delay=0) as worker:
        await worker.event("error", id=info.id, retried=0)
        await worker.event("error", id=info.id, retried=1)

    task = await go.task(info.id)
    assert (task.state, task.retried, task.max_retry) == ("archived", 1, 1)
    assert task.last_error == "failed on purpose: é"


async def test_go_keeps_a_task_and_its_result_for_the_retention(
    go: GoProgram, client: Client
) -> None:
    info = await client.enqueue(Task("result:1", b"\x00r"), retention=timedelta(hours=1))

    async with go.worker() as worker:
        await worker.event("end", id=info.id, error="")

    task = await go.task(info.id)
    assert (task.state, task.result, task.retention) == ("completed", b"\x00r", 3600)


async def test_go_sees_the_headers_or_does_without(go: GoProgram, client: Client) -> None:
    info = await client.enqueue(Task("ok:1", headers={"trace": "é", "empty": ""}))

    async with go.worker() as worker:
        start = await worker.event("start", id=info.id)
        await worker.event("end", id=info.id, error="")

    assert start.headers == ({"trace": "é", "empty": ""} if go.has_headers else None)


async def test_go_stops_a_task_at_its_timeout(go: GoProgram, client: Client) -> None:
    info = await client.enqueue(Task("hang:1"), timeout=1, max_retry=0)

    async with go.worker() as worker:
        await worker.event("error", id=info.id, error="context deadline exceeded")

    assert (await go.task(info.id)).state == "archived"


async def test_go_keeps_to_the_deadline(go: GoProgram, client: Client) -> None:
    deadline = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    info = await client.enqueue(Task("hang:1"), deadline=deadline, max_retry=0)

    async with go.worker() as worker:
        assert (await worker.event("start", id=info.id)).deadline == deadline
        await worker.event("error", id=info.id, error="context deadline exceeded")

    assert datetime.now(UTC) >= deadline


async def test_a_task_in_a_go_worker_can_be_cancelled_from_python(
    go: GoProgram, client: Client, redis_server: CommonRedis, redis_url: str
) -> None:
    info = await client.enqueue(Task("hang:1"), max_retry=0)

    async with go.worker() as worker:
        await worker.event("start", id=info.id)
        await a_listener(redis_server)
        broker = Broker(redis_url)
        await broker.publish_cancel(info.id)
        await broker.close()
        await worker.event("error", id=info.id, error="context canceled")

    assert (await go.task(info.id)).state == "archived"


async def test_go_releases_the_locks_of_tasks_it_has_done(go: GoProgram, client: Client) -> None:
    # nil and empty payloads have different locks.
    tasks = [Task("ok:1", payload, unique=60) for payload in (None, b"", b"p")]
    first = await client.enqueue_many(tasks)
    async with go.worker() as worker:
        await eventually(lambda: len(worker.ids("end")) == len(first))

    second = await client.enqueue_many(tasks)

    assert [type(outcome) for outcome in second] == [TaskInfo] * 3
