"""B25-B30: results, latency, full Redis, text that is none, moving slots, and what is never cleaned up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, Task
from asynqpy.broker.messages import ERROR_TEXT_LIMIT
from asynqpy.broker.outcomes import Archive, Done, Outcome, Requeue, Retry
from asynqpy.server.runs import Runs
from tests.broker.factories import lease_on, lease_score, new_task, settlement
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_process import RedisProcess, start_redis
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    listed,
    message,
    messages,
    scores,
    seed_active,
    seed_pending,
    states,
    stored_message,
    task_hash,
)
from tests.server.making import a_message, a_run
from tests.server.parts import a_workshop, work_off
from tests.server.servers import serving


async def test_b25_a_result_that_comes_too_late_brings_no_hash_back(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq writes it whatever has become of the task: a hash of nothing but a result blocks the id for ever."""
    task = message()
    await seed_active(redis, task, lease=lease_score(clock))
    lease = lease_on(task, clock)
    assert await broker.write_result(lease, b"42") is True
    assert await broker.settle([settlement(task, Done(), clock.now())]) == [True]
    assert await broker.write_result(lease, b"43") is False
    assert await task_hash(redis, "t1") == {}
    assert await broker.enqueue([new_task("t1", token="again")]) == [None]
    assert await broker.write_result(lease, b"44") is False
    assert "result" not in await task_hash(redis, "t1")


async def test_b26_a_task_that_is_put_back_says_since_when_it_waits(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq puts it back without: the latency of its queue reads 0 while the task waits."""
    task = message()
    await seed_active(redis, task, lease=lease_score(clock))
    assert await broker.settle([settlement(task, Requeue(), clock.now())]) == [True]
    assert int((await task_hash(redis, "t1"))["pending_since"]) == clock.now_ns()


@pytest.fixture
def full_redis() -> Iterator[RedisProcess]:
    """A Redis that evicts nothing and, once ``maxmemory`` is 1, has room for nothing."""
    with start_redis("--maxmemory-policy", "noeviction") as server:
        yield server


async def test_b27_workers_drain_a_redis_that_is_full_and_keep_their_leases(
    full_redis: RedisProcess,
) -> None:
    """asynq takes no task and extends no lease then: after 30 s everything that runs is cancelled, a retry burned."""
    clock, worked = FakeClock(), []
    broker = FlakyBroker(full_redis.url, clock)
    shop = a_workshop(broker, lambda task: worked.append(task.id), concurrency=3)
    async with Redis.from_url(full_redis.url, protocol=2) as redis:
        running = message("running")
        await seed_active(redis, running, lease=lease_score(clock))
        await seed_pending(redis, *messages(9))
        await ask(redis, "CONFIG", "SET", "maxmemory", 1)
        clock.advance(20)
        assert await broker.extend_lease([lease := lease_on(running, clock)]) == []
        assert await scores(redis, "lease") == {"running": lease_score(clock)}
        await work_off(shop)
        assert sorted(worked) == [f"t{n}" for n in range(9)]
        assert await broker.settle([settlement(running, Done(), clock.now(), lease.fence)]) == [
            True
        ]
        assert await dump(redis, "*:t:*") == {}
    await broker.close()


NO_TEXT = ["\ud800 a lone surrogate", "\udcff a byte of os.fsdecode", "a zero \0 byte", "é" * 9_999]


@pytest.mark.parametrize("text", NO_TEXT, ids=["surrogate", "byte", "zero", "long"])
@pytest.mark.parametrize("max_retry", [25, 0], ids=["retry", "archived"])
async def test_b28_a_failure_is_written_whatever_its_text_is_made_of(
    broker: FlakyBroker, redis: Redis, text: str, max_retry: int
) -> None:
    """asynq cannot encode such a text, so the failure is never written, and the task runs again when its lease ends."""

    async def fails(task: ActiveTask) -> None:
        raise ValueError(text)

    await seed_pending(redis, message(retry=max_retry))
    await work_off(a_workshop(broker, fails))
    assert await states(redis, "t1") == ["retry" if max_retry else "archived"]
    stored = await stored_message(redis, "t1")
    assert stored.error_msg.startswith("ValueError: ")
    assert len(stored.error_msg) <= ERROR_TEXT_LIMIT
    assert await invariants(redis) == []


@pytest.mark.parametrize("outcome", [Retry(4e9, b"\xff".decode("latin-1")), Archive("\udcff")])
async def test_b28_a_text_is_mended_below_the_server_too(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, outcome: Outcome
) -> None:
    """asynq fails to encode the message in its broker; here no outcome can bring such a text there."""
    task = message()
    await seed_active(redis, task, lease=lease_score(clock))
    assert await broker.settle([settlement(task, outcome, clock.now())]) == [True]
    assert (await stored_message(redis, "t1")).error_msg in ("ÿ", "?")


async def test_b29_an_id_whose_hash_is_elsewhere_is_no_task(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq writes a bare hash for it, on the wrong node of a cluster whose slots move: the real one is lost."""
    await seed_pending(redis, message("moved"), message("here"))
    await ask(redis, "DEL", key("default", "t:moved"))
    turn = await broker.dequeue({"default": 2})
    assert [delivery.message.id for delivery in turn.deliveries] == ["here"]
    assert await task_hash(redis, "moved") == {}
    assert await listed(redis, "active") == ["here"]
    assert list(await scores(redis, "lease")) == ["here"]
    assert await broker.enqueue([new_task("moved", token="again")]) == [None]


async def test_b30_a_server_and_its_tasks_leave_nothing_that_lasts_but_statistics(
    redis_url: str, redis: Redis, client: Client
) -> None:
    """asynq's scheduler keeps a history under a name that is new for each process, and has no end."""
    async with serving(redis_url, lambda task: None):
        await client.enqueue(Task("email"), unique=60)
        await eventually(lambda: ask(redis, "GET", key("default", "processed")))
    lasting = [name for name in await dump(redis) if await ask(redis, "TTL", name) == -1]
    assert sorted(lasting) == ["asynq:queues", key("default", "processed")]


async def test_b30_two_runs_of_one_task_are_kept_apart() -> None:
    """asynq's books are by the task's id: where a task is given away and taken again, one run hides the other."""
    runs, stale, fresh = Runs(), a_run(a_message(), stamp=1), a_run(a_message(), stamp=2)
    runs.add(stale)
    runs.add(fresh)
    assert runs.remove(stale) is True
    runs.let_go(stale.lease)
    assert list(runs) == [fresh]
    assert list(runs.held()) == [fresh.lease]


async def test_b30_a_task_past_its_deadline_is_archived_at_its_first_failure(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq tries such a task again and again, each time to fail at once, until all its retries are used up."""
    worked: list[str] = []
    late = message(timeout=0, deadline=int(clock.now()) - 1)
    await seed_pending(redis, late)
    await work_off(a_workshop(broker, lambda task: worked.append(task.id)))
    assert worked == []
    assert await states(redis, "t1") == ["archived"]
