"""The faults again in a mixed fleet, with Go's real client, worker or Inspector on the other side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Delivery, Done, Outcome, Requeue, Retry, Settlement
from asynqpy.clock import Clock
from tests.broker.factories import settlement
from tests.eventually import eventually
from tests.interop.go_program import GoConflictError, GoProgram
from tests.interop.python_worker import python_worker
from tests.interop.worker_process import WorkerProcess
from tests.redis_state import (
    ask,
    counter,
    invariants,
    key,
    listed,
    message,
    scores,
    seed_active,
    states,
    task_key,
)
from tests.regressions.histories import Slow, closing, expire_leases, name_of
from tests.server.parts import a_recoverer
from tests.server.servers import serving
from tests.topologies.common import CommonRedis


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recoverers act on what they see silent twice in a row, and look ten times a second."""
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    monkeypatch.setattr("asynqpy.server.recoverer._WATCHING", 0.1)


@pytest.fixture
async def real_broker(redis_url: str) -> AsyncIterator[Broker]:
    """By the real clock, as Go's workers are."""
    async with closing(Broker(redis_url, Clock())) as broker:
        yield broker


@asynccontextmanager
async def lost_to_go(
    go: GoProgram, broker: Broker
) -> AsyncIterator[tuple[Delivery, WorkerProcess]]:
    """What a worker of ours took, and a Go worker runs by now: for a second, and to its proper end."""
    await go.enqueue("sleep:1", id="t1", payload=b"1000")
    (stalled,) = (await broker.dequeue({"default": 1})).deliveries
    back = Settlement(stalled.message, stalled.lease.fence, Requeue(), broker.clock.now())
    assert await broker.settle([back]) == [True]
    async with go.worker() as worker:
        await worker.event("start", id="t1")
        yield stalled, worker
        await worker.event("end", id="t1", error="")
    assert (await go.queue()).processed == 1
    assert (await go.queue()).size == 0


async def test_b02_a_bad_message_stops_recovery_by_go_but_not_by_us(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's recoverer fails as a whole, each minute anew."""
    tasks = [message("bad", type="ok:1"), message("t1", type="ok:1")]
    await seed_active(redis, *tasks, lease=1_700_000_000)
    await ask(redis, "HSET", task_key("default", "bad"), "msg", b"\xff no protobuf")
    async with go.worker() as theirs:
        task = await go.enqueue("ok:2")
        await theirs.event("end", id=task.id)
        assert await states(redis, "t1") == ["active"]
        async with python_worker(redis_url) as ours:
            await eventually(lambda: counter_is(redis, 2), within=10)
    assert "t1" in ours.ids("end") + theirs.ids("end")
    assert await invariants(redis) == []


async def counter_is(redis: Redis, processed: int) -> bool:
    return await counter(redis, "processed") == processed


async def test_b03_a_ghost_that_a_go_worker_makes_is_cleared_away(
    go: GoProgram, redis: Redis, redis_url: str, redis_server: CommonRedis
) -> None:
    """asynq keeps the bare hash, active and leased, and its id taken, for ever."""
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "LPUSH", key("default", "pending"), "ghost")
    async with go.worker():
        await eventually(lambda: listed(redis, "active"))
    with pytest.raises(GoConflictError):
        await go.enqueue("ok:1", id="ghost")
    expire_leases(redis_server)
    async with python_worker(redis_url) as ours:
        await eventually(lambda: ask(redis, "EXISTS", "asynqpy:{default}:quarantine"), within=10)
        await go.enqueue("ok:1", id="ghost")
        await ours.event("end", id="ghost")
    assert await invariants(redis) == []


async def test_b05_a_recoverer_leaves_a_task_that_a_go_worker_has_taken_meanwhile(
    go: GoProgram, redis: Redis, redis_url: str, other_broker: Broker
) -> None:
    """asynq's retries it by the copy it has read, while the worker runs it."""
    task = message(type="sleep:1", payload=b"1000")
    await seed_active(redis, task, lease=1_700_000_000)
    back = settlement(task, Requeue(), 1.0, fence="1700000000")
    told: list[str] = []
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(closing(Slow(redis_url)))
        workers: list[WorkerProcess] = []

        async def go_takes_it() -> None:
            assert await other_broker.settle([back]) == [True]
            workers.append(await stack.enter_async_context(go.worker()))
            await workers[0].event("start", id="t1")

        slow.meanwhile = go_takes_it
        recoverer = a_recoverer(slow, error_handler=lambda task, error: told.append(task.id))
        await recoverer.tick()
        await recoverer.tick()
        assert await states(redis, "t1") == ["active"]
        await workers[0].event("end", id="t1", error="")
    assert told == []
    assert workers[0].ids("start") == ["t1"]
    assert (await go.queue()).processed == 1
    assert await invariants(redis) == []


@pytest.mark.parametrize("outcome", [Done(), Retry(0, "late"), Requeue()], ids=name_of)
async def test_b06_a_stalled_worker_settles_nothing_that_a_go_worker_runs(
    go: GoProgram, redis: Redis, real_broker: Broker, outcome: Outcome
) -> None:
    """asynq's would: by the id alone it takes the task from the other, whose own end then fails."""
    async with lost_to_go(go, real_broker) as (stalled, _):
        late = Settlement(stalled.message, stalled.lease.fence, outcome, 1.0)
        assert await real_broker.settle([late]) == [False]
        assert await real_broker.write_result(stalled.lease, b"stale") is False
        assert [task.id for task in await go.tasks("active")] == ["t1"]
    assert await invariants(redis) == []


async def test_b07_a_worker_learns_that_a_go_worker_has_its_task(
    go: GoProgram, redis: Redis, real_broker: Broker
) -> None:
    """asynq's would extend the lease of the other, and take it for its own."""
    async with lost_to_go(go, real_broker) as (stalled, _):
        before = await scores(redis, "lease")
        assert await real_broker.extend_lease([stalled.lease]) == [stalled.lease]
        assert await scores(redis, "lease") == before
    assert await invariants(redis) == []


async def test_b08_a_task_of_a_killed_go_worker_runs_again_though_it_has_no_retries(
    go: GoProgram, redis_url: str, redis_server: CommonRedis, redis: Redis
) -> None:
    """asynq's recoverer archives it, as the second half shows."""
    await go.enqueue("hang-in-go:1", id="t1", max_retry=0)
    await killed_at_work(go, redis_server, "t1")
    async with python_worker(redis_url) as ours:
        started = await ours.event("start", id="t1")
        assert (started.retried, started.max_retry) == (0, 0)
        await ours.event("end", id="t1", error="")
    assert await counter(redis, "failed") == 0
    assert await invariants(redis) == []

    await go.enqueue("hang-in-go:1", id="t2", max_retry=0)
    await killed_at_work(go, redis_server, "t2")
    async with go.worker():
        await eventually(lambda: scores(redis, "archived"))
    assert (await go.task("t2")).last_error == "asynq: task lease expired"


async def killed_at_work(go: GoProgram, redis_server: CommonRedis, task_id: str) -> None:
    async with go.worker() as victim:
        await victim.event("start", id=task_id)
        await victim.kill()
    expire_leases(redis_server)


async def test_b11_a_task_that_a_server_hands_back_at_its_end_burns_no_retry_in_go(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's hand-over may fail unseen; then Go's recoverer counts a failure."""
    async with python_worker(redis_url, shutdown_timeout=0) as ours:
        await go.enqueue("hang-in-python:1", id="t1", max_retry=0)
        await ours.event("start", id="t1")
    assert await states(redis, "t1") == ["pending"]
    async with go.worker() as theirs:
        started = await theirs.event("start", id="t1")
        assert (started.retried, started.max_retry) == (0, 0)
        await theirs.event("end", id="t1", error="")
    assert (await go.queue()).size == 0


async def test_b26_go_sees_how_long_a_task_that_was_put_back_has_waited(
    go: GoProgram, real_broker: Broker, redis: Redis
) -> None:
    """After asynq's own requeue its latency reads 0."""
    await go.enqueue("ok:1", id="t1")
    (taken,) = (await real_broker.dequeue({"default": 1})).deliveries
    now = real_broker.clock.now()
    back = Settlement(taken.message, taken.lease.fence, Requeue(), now)
    assert await real_broker.settle([back]) == [True]
    assert 0 < (await go.queue()).latency < 10


async def test_b28_go_reads_the_failure_of_a_handler_whose_text_was_none(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq could not have written it."""

    async def fails(task: ActiveTask) -> None:
        raise ValueError("\udcff \ud800 é")

    await go.enqueue("ok:1", id="t1")
    async with serving(redis_url, fails):
        await eventually(lambda: scores(redis, "retry"))
    (failed,) = await go.tasks("retry")
    assert (failed.last_error, failed.retried) == ("ValueError: ? ? é", 1)
