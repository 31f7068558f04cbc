"""What Go's real worker and Inspector leave behind, and what asynqpy makes of it."""

from __future__ import annotations

import time

import pytest
from redis.asyncio import Redis

from asynqpy import Client, Task, TaskIdConflictError
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Done
from asynqpy.broker.settling import ARCHIVE_LIMIT, ARCHIVE_TTL
from asynqpy.clock import Clock
from asynqpy.doctor import Doctor
from tests.broker.factories import lease_score, settlement
from tests.eventually import eventually
from tests.interop.go_program import GoConflictError, GoDuplicateError, GoProgram
from tests.interop.python_worker import python_worker
from tests.redis_state import (
    ask,
    dump,
    invariants,
    key,
    listed,
    lock_key,
    message,
    messages,
    scores,
    seed_active,
    seed_aggregating,
    seed_archived,
    seed_many,
    states,
    stored_message,
    task_hash,
    task_key,
)
from tests.regressions.histories import closing

SET = "g:g:0b0e4c7e-8a52-4f0c-9c1c-3f2a5d1c9b10"


async def healed(redis: Redis, redis_url: str) -> None:
    """Let the doctor do his work; what is left must be sound."""
    async with Doctor(redis_url) as doctor:
        assert not (await doctor.examine()).is_healthy
        assert (await doctor.heal()).is_healthy
    assert await invariants(redis) == []


async def test_b04_a_task_that_go_settled_by_half_is_found_and_runs(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's worker removes the task from `active`, misses the lease, and leaves the hash in no list."""
    await go.enqueue("sleep:1", id="t1", payload=b"200", unique=3600)
    async with go.worker() as worker:
        await worker.event("start", id="t1")
        await ask(redis, "ZREM", key("default", "lease"), "t1")
        await worker.event("end", id="t1")
        await eventually(lambda: is_empty(redis, "active"))
    assert await states(redis, "t1") == ["active"]
    with pytest.raises(GoConflictError):
        await go.enqueue("sleep:1", id="t1", payload=b"other")
    await healed(redis, redis_url)
    async with python_worker(redis_url) as ours:
        await ours.event("end", id="t1", error="")
    assert await dump(redis, "*:unique:*") == {}
    assert (await go.queue()).size == 0


async def is_empty(redis: Redis, container: str) -> bool:
    return await listed(redis, container) == []


async def test_b04_a_task_that_is_active_without_a_lease_is_put_back(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's recoverer looks at leases alone: such a task stays active for ever."""
    await seed_active(redis, message(type="ok:1"), lease=1)
    await ask(redis, "DEL", key("default", "lease"))
    async with go.worker() as worker:
        other = await go.enqueue("ok:1")
        await worker.event("end", id=other.id)
        assert await states(redis, "t1") == ["active"]
    await healed(redis, redis_url)
    async with go.worker() as worker:
        await worker.event("end", id="t1", error="")


async def test_b15_where_go_cannot_archive_any_more_it_can_again_after_us(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's script has written half of it when it fails; each later one fails like it."""
    too_old = int(time.time()) - ARCHIVE_TTL - 60
    await seed_many(redis, "archived", {f"old-{n}": too_old for n in range(8_100)})
    async with go.worker() as worker:
        task = await go.enqueue("skip:1")
        await worker.event("end", id=task.id)
        await eventually(lambda: is_empty(redis, "active"))
    assert await states(redis, task.id) == ["active"]

    await archive_one(redis, redis_url)
    async with go.worker() as worker:
        second = await go.enqueue("skip:1")
        await worker.event("end", id=second.id)
        await eventually(lambda: is_archived(redis, second.id))
    assert task.id in await scores(redis, "archived")
    await healed(redis, redis_url)
    assert await states(redis, task.id) in (["archived"], ["pending"])


async def archive_one(redis: Redis, redis_url: str) -> None:
    """As a worker of ours does whose task has failed for good."""
    async with closing(Broker(redis_url, Clock())) as broker:
        task = message("ours")
        await seed_active(redis, task, lease=lease_score(broker.clock))
        report = settlement(task, Archive("no"), broker.clock.now())
        assert await broker.settle([report]) == [True]


async def is_archived(redis: Redis, task_id: str) -> bool:
    return await states(redis, task_id) == ["archived"]


async def test_b17_hashes_that_gos_inspector_trims_from_the_archive_are_cleared_away(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's Inspector drops the oldest from the archive, and leaves its hash and its lock."""
    now = int(time.time())
    full = {f"old-{n:05}": now - 99 for n in range(ARCHIVE_LIMIT - 1)}
    await seed_many(redis, "archived", full)
    await seed_archived(redis, message("oldest", unique_key=lock_key()), at=now - 999)
    await go.enqueue("ok:1", id="t1")
    await go.act("archive", id="t1")
    assert "oldest" not in await scores(redis, "archived")
    assert await states(redis, "oldest", "t1") == ["archived", "archived"]
    # The others have done their part; the doctor would look at each.
    await ask(redis, "ZREM", key("default", "archived"), *full)
    await ask(redis, "DEL", *(task_key("default", task_id) for task_id in full))
    await healed(redis, redis_url)
    assert await states(redis, "t1") == ["archived"]
    assert (await go.queue()).size == (await go.queue()).archived


async def test_b18_a_task_that_go_could_not_complete_twice_is_found(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """asynq's script fails with the task out of `active`, its hash active all the same."""
    await ask(redis, "ZADD", key("default", "completed"), int(time.time()) + 60, "t1")
    await go.enqueue("ok:1", id="t1", retention=3600)
    async with go.worker() as worker:
        await worker.event("end", id="t1")
        await eventually(lambda: is_empty(redis, "active"))
    assert await states(redis, "t1") == ["active"]
    await healed(redis, redis_url)
    assert await states(redis, "t1") == ["completed"]


async def test_b19_go_sets_a_lock_for_a_task_that_it_refuses_and_we_do_not(
    go: GoProgram, client: Client, redis: Redis
) -> None:
    """asynq's client leaves a lock behind whose holder is the very task that was there before, and knows nothing."""
    await go.enqueue("other:1", id="t1")
    with pytest.raises(GoConflictError):
        await go.enqueue("email:1", payload=b"go", id="t1", unique=3600)
    with pytest.raises(GoDuplicateError):
        await go.enqueue("email:1", payload=b"go", unique=3600)

    with pytest.raises(TaskIdConflictError):
        await client.enqueue(Task("email:1", b"ours"), task_id="t1", unique=3600)
    await go.enqueue("email:1", payload=b"ours", unique=3600)
    (breach,) = await invariants(redis)
    assert breach.endswith("is held by b't1', which knows nothing of it")


async def test_b19_a_lock_whose_holder_knows_nothing_of_it_keeps_our_clients_out_no_longer(
    go: GoProgram, client: Client
) -> None:
    """asynq leaves one when it refuses a task for its id."""
    await go.enqueue("other:1", id="t1")
    with pytest.raises(GoConflictError):
        await go.enqueue("email:1", payload=b"1", id="t1", unique=3600)
    await client.enqueue(Task("email:1", b"1"), unique=3600)


async def test_b19_a_lock_whose_holder_knows_nothing_of_it_is_released_for_gos_clients(
    go: GoProgram, redis_url: str
) -> None:
    await go.enqueue("other:1", id="t1")
    with pytest.raises(GoConflictError):
        await go.enqueue("email:1", payload=b"1", id="t1", unique=3600)
    async with Doctor(redis_url) as doctor:
        await doctor.heal()
    await go.enqueue("email:1", payload=b"1", unique=3600)


async def test_b20_a_lock_that_gos_inspector_leaves_behind_keeps_our_clients_out_no_longer(
    go: GoProgram, client: Client, redis: Redis
) -> None:
    """asynq's Inspector deletes all that is pending, and no lock: for its own clients there is a duplicate."""
    await go.enqueue("email:1", payload=b"1", unique=3600)
    await go.act("delete-all")
    with pytest.raises(GoDuplicateError):
        await go.enqueue("email:1", payload=b"1", unique=3600)
    task = await client.enqueue(Task("email:1", b"1"), unique=3600)
    assert await listed(redis, "pending") == [task.id]
    assert await invariants(redis) == []


async def test_b20_a_leaked_lock_is_released_by_the_doctor(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """For asynq's own clients there is no other cure than to wait."""
    await go.enqueue("email:1", payload=b"1", unique=3600)
    await go.act("delete-all")
    await healed(redis, redis_url)
    await go.enqueue("email:1", payload=b"1", unique=3600)


async def test_b22_a_group_that_gos_forwarder_forgets_is_listed_again(
    go: GoProgram, redis: Redis, redis_url: str
) -> None:
    """A task of a group that is run by hand and fails returns to its group unlisted, seen by no aggregator."""
    await go.enqueue("fail:1", id="t1", group="g")
    await go.act("run", id="t1")
    async with go.worker(retry_delay=0):
        await eventually(lambda: scores(redis, "g:g"))
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == set()
    await healed(redis, redis_url)
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == {b"g"}
    assert [task.id for task in await go.tasks("aggregating", group="g")] == ["t1"]


async def test_b23_the_tasks_of_an_aggregation_that_died_return_to_their_group(
    redis: Redis, redis_url: str
) -> None:
    """asynq gives them back as well, but to a group that it does not list."""
    await seed_aggregating(redis, *messages(3, group_key="g"), at=int(time.time()) - 999)
    await ask(redis, "RENAME", key("default", "g:g"), key("default", SET))
    await ask(redis, "SREM", key("default", "groups"), "g")
    await ask(redis, "ZADD", key("default", "aggregation_sets"), 1_000, key("default", SET))
    await healed(redis, redis_url)
    assert list(await scores(redis, "g:g")) == ["t0", "t1", "t2"]
    assert await ask(redis, "SMEMBERS", key("default", "groups")) == {b"g"}


async def test_b24_a_delayed_task_of_ours_joins_its_group_where_go_forwards_it(
    go: GoProgram, client: Client, redis: Redis, redis_url: str
) -> None:
    """asynq's forwarder does so with what names its group, and forgets to list it (B22)."""
    await client.enqueue(Task("email:1"), task_id="t1", group="g", process_in=3600)
    await ask(redis, "ZADD", key("default", "scheduled"), "XX", 1_000, "t1")
    async with go.worker():
        await eventually(lambda: scores(redis, "g:g"))
    await healed(redis, redis_url)
    assert [task.id for task in await go.tasks("aggregating", group="g")] == ["t1"]


async def test_b25_a_result_that_go_wrote_too_late_blocks_its_id_no_longer(
    go: GoProgram, client: Client, redis: Redis, redis_url: str
) -> None:
    """asynq leaves a hash of nothing but the result: the id is taken, and cannot even be deleted."""
    async with go.worker() as worker:
        task = await go.enqueue("result-later:1", id="t1", payload=b"42")
        await worker.event("start", id="t1")
        await end_as_another_worker(redis, redis_url)
        await eventually(lambda: has_only_a_result(redis))
    with pytest.raises(GoConflictError):
        await go.enqueue("ok:1", id=task.id)
    await healed(redis, redis_url)
    assert await ask(redis, "HGET", "asynqpy:{default}:quarantine:t1", "result") == b"42"
    await client.enqueue(Task("ok:1"), task_id="t1")


async def end_as_another_worker(redis: Redis, redis_url: str) -> None:
    """As if its lease had lapsed, and another worker had run the task to its end."""
    lease = await ask(redis, "ZSCORE", key("default", "lease"), "t1")
    async with closing(Broker(redis_url)) as broker:
        task = await stored_message(redis, "t1")
        report = settlement(task, Done(), broker.clock.now(), fence=str(int(lease)))
        assert await broker.settle([report]) == [True]


async def has_only_a_result(redis: Redis) -> bool:
    return await task_hash(redis, "t1") == {"result": b"42"}


async def test_b03_ghosts_and_orphans_are_found_by_the_doctor(redis: Redis, redis_url: str) -> None:
    """asynq knows neither: an id without a hash and a hash without an id stay as they are."""
    await seed_active(redis, message("ghost"), lease=1_000)
    await ask(redis, "DEL", task_key("default", "ghost"))
    await ask(redis, "HSET", task_key("default", "ghost"), "state", "active")
    orphan = message("orphan").SerializeToString()
    await ask(redis, "HSET", task_key("default", "orphan"), "msg", orphan, "state", "pending")
    await healed(redis, redis_url)
    assert await listed(redis, "pending") == ["orphan"]
    assert await listed(redis, "active") == []
