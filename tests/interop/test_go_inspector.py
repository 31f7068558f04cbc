"""What Go's Inspector, and so the asynq CLI and asynqmon, reads and does of what asynqpy wrote."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta

import pytest

from asynqpy import Client, Server, Task
from tests.eventually import eventually
from tests.interop.go_program import GoError, GoProgram
from tests.interop.go_records import GoTask
from tests.interop.python_worker import python_worker
from tests.interop.states import RESTING, RETRY_DELAY, one_task_in_each_state
from tests.topologies.common import CommonRedis

SECOND = timedelta(seconds=1)


async def test_go_lists_each_state_with_its_task(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    await one_task_in_each_state(client, redis_url)

    for state in RESTING:
        (task,) = await go.tasks(state, group="g")
        assert (task.id, task.state, task.queue) == (state, state, "default")
        # The two ways to read a task agree, but for "now", the next time of a pending one.
        if state != "pending":
            assert await go.task(state) == task


async def test_go_reads_the_right_values_of_each_state(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    started_at = datetime.now(UTC).replace(microsecond=0)
    await one_task_in_each_state(client, redis_url)
    tasks = {state: await go.task(state) for state in RESTING}
    ended_at = datetime.now(UTC)

    def in_the_test(instant: datetime | None, later: float = 0) -> bool:
        assert instant is not None
        delay = timedelta(seconds=later)
        return started_at + delay <= instant <= ended_at + delay

    pending = tasks["pending"]
    assert (pending.type, pending.payload, pending.timeout) == ("ok:1", b"p", 90)
    assert (pending.max_retry, pending.retried, pending.last_error) == (25, 0, "")
    assert in_the_test(pending.next_process_at)

    assert tasks["scheduled"].payload == b"s"
    assert tasks["scheduled"].timeout == 1800
    assert in_the_test(tasks["scheduled"].next_process_at, later=500)

    retry = tasks["retry"]
    assert (retry.payload, retry.retried, retry.max_retry) == (b"r", 1, 7)
    assert retry.last_error == "OnPurposeError: failed on purpose: é"
    assert in_the_test(retry.last_failed_at)
    assert in_the_test(retry.next_process_at, later=RETRY_DELAY)

    archived = tasks["archived"]
    assert (archived.payload, archived.retried) == (b"a", 0)
    assert archived.last_error == "not worth a retry"
    assert in_the_test(archived.last_failed_at)
    assert archived.next_process_at is None

    completed = tasks["completed"]
    assert (completed.result, completed.retention) == (b"\x00c", 3600)
    assert in_the_test(completed.completed_at)

    assert (tasks["aggregating"].group, tasks["aggregating"].payload) == ("g", b"g")


async def test_go_counts_what_is_in_each_state(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    await one_task_in_each_state(client, redis_url)

    info = await go.queue()

    assert {state: getattr(info, state) for state in RESTING} == dict.fromkeys(RESTING, 1)
    assert (info.size, info.active, info.groups, info.paused) == (6, 0, 1, False)
    assert (info.processed, info.failed) == (3, 2)
    assert (info.processed_total, info.failed_total) == (3, 2)
    assert info.memory_usage > 0
    assert 0 < info.latency < 10
    assert await go.queues() == {"default"}


async def test_go_lists_pending_tasks_in_the_order_they_will_run(
    go: GoProgram, client: Client
) -> None:
    await client.enqueue_many([Task("ok:1", task_id=f"b{n}") for n in range(600)])
    await client.enqueue(Task("ok:1", task_id="last"))

    assert [task.id for task in await go.tasks("pending")] == [
        *(f"b{n}" for n in range(600)),
        "last",
    ]


async def test_go_reads_every_option_of_a_task(go: GoProgram, client: Client) -> None:
    deadline = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    headers = {"trace": "é"} if go.has_headers else None

    await client.enqueue(
        Task("ok:é", "pé", headers={"trace": "é"}),
        task_id="id 1",
        queue="low",
        max_retry=2,
        timeout=1.5,
        deadline=deadline,
        retention=timedelta(days=1),
        unique=60,
    )

    task = await go.task("id 1", "low")
    assert (task.type, task.payload, task.headers) == ("ok:é", "pé".encode(), headers)
    assert (task.max_retry, task.timeout, task.deadline) == (2, 2, deadline)
    assert (task.retention, task.group) == (86_400, "")


@pytest.mark.parametrize("state", ["scheduled", "retry", "archived", "completed", "aggregating"])
async def test_go_runs_a_task_from_any_state_and_python_processes_it(
    go: GoProgram, client: Client, redis_url: str, state: str
) -> None:
    await one_task_in_each_state(client, redis_url)

    await go.act("run", id=state)

    assert (await go.task(state)).state == "pending"
    async with python_worker(redis_url) as worker:
        await worker.event("start", id=state)
        await worker.event("end", id=state)
    if state in ("scheduled", "aggregating"):
        with pytest.raises(GoError, match="not found"):
            await go.task(state)


async def test_go_archives_a_task_from_any_state(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    await one_task_in_each_state(client, redis_url)

    for state in RESTING:
        if state == "archived":
            with pytest.raises(GoError):
                await go.act("archive", id=state)
        else:
            await go.act("archive", id=state)

    assert {task.id for task in await go.tasks("archived")} == set(RESTING)
    info = await go.queue()
    assert (info.size, info.archived, info.groups) == (6, 6, 0)


async def test_go_deletes_a_task_from_any_state(
    go: GoProgram, client: Client, redis_url: str
) -> None:
    await one_task_in_each_state(client, redis_url)

    for state in RESTING:
        await go.act("delete", id=state)

    info = await go.queue()
    assert (info.size, info.groups) == (0, 0)
    # The lock of the pending one is gone with it, and so are the ids.
    await client.enqueue(Task("ok:1", b"p"), task_id="pending", unique=60)
    await one_of(go, "pending")


async def test_go_shows_a_python_server_and_what_it_works_on(
    go: GoProgram,
    client: Client,
    redis_server: CommonRedis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Server, "_heartbeat_interval", 0.2)
    began_at = datetime.now(UTC) - SECOND
    queues = {"high": 6, "low": 2}
    options = {"queues": queues, "concurrency": 3, "strict_priority": True, "shutdown_timeout": 0.1}
    async with python_worker(redis_url, **options) as worker:
        info = await client.enqueue(Task("hang:1", b"p"), queue="high", timeout=600)
        await worker.event("start", id=info.id)

        # The server has shown itself before it took the task; its next heartbeat shows that too.
        await eventually(lambda: redis_server.ask("KEYS", "asynq:workers:*"))
        (server,) = await go.servers()
        active = await one_of(go, "active", "high")
        for action in ("run", "archive", "delete"):
            with pytest.raises(GoError):
                await go.act(action, id=info.id, queue="high")

    assert (server.host, server.pid, server.status) == (socket.gethostname(), os.getpid(), "active")
    assert (server.queues, server.concurrency, server.strict_priority) == (queues, 3, True)
    assert began_at <= server.started <= datetime.now(UTC)
    (running,) = server.workers
    assert (running.id, running.type, running.queue) == (info.id, "hang:1", "high")
    assert running.payload == b"p"
    assert began_at <= running.started <= datetime.now(UTC)
    assert SECOND * 590 < running.deadline - running.started <= SECOND * 600
    assert (active.id, active.state, active.is_orphaned) == (info.id, "active", False)
    # A server that was stopped is gone, and its task waits for the next one.
    assert await go.servers() == []
    assert (await one_of(go, "pending", "high")).retried == 0


async def one_of(go: GoProgram, state: str, queue: str = "default") -> GoTask:
    (task,) = await go.tasks(state, queue)
    return task
