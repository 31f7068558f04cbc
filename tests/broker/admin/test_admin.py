from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.broker.admin import admin as module
from asynqpy.broker.admin.admin import Admin, Step
from asynqpy.broker.admin.listing import Record
from asynqpy.broker.admin.moving import Target
from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import TaskState
from asynqpy.errors import BrokerError
from tests import redis_state as state
from tests import single
from tests.broker.conftest import Deployment
from tests.broker.factories import new_task
from tests.damage import SET, seed_healthy
from tests.fake_clock import FakeClock
from tests.redis_state import ask, dump, invariants, key, listed, message, messages, scores
from tests.topologies.cluster import ClusterProcesses

QUEUE = "default"


async def steps(admin: Admin, target: Target, task_state: str, **options: object) -> list[Step]:
    sweep = admin.sweep(QUEUE, target, TaskState(task_state), **options)  # type: ignore[arg-type]
    return [step async for step in sweep]


def even(record: Record) -> bool:
    return int(record.id.removeprefix("t")) % 2 == 0


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("task_state", ["pending", "retry"])
async def test_sweep_moves_what_fits_and_looks_at_everything_once(
    admin: Admin, redis: Redis, task_state: str
) -> None:
    if task_state == "pending":
        await state.seed_pending(redis, *messages(11))
    else:
        for n in range(11):
            await state.seed_retry(redis, message(f"t{n}"), at=n)
    told = await steps(admin, Target.ARCHIVED, task_state, fits=even)
    assert told == [Step(2, 2), Step(2, 4), Step(2, 5)]
    assert sorted(await scores(redis, "archived")) == sorted(f"t{n}" for n in range(0, 11, 2))
    found = await admin.page(QUEUE, TaskState(task_state), "", 0, 99)
    assert [record.id for record in found] == ["t1", "t3", "t5", "t7", "t9"]
    assert await invariants(redis) == []


@pytest.mark.usefixtures("small_steps")
async def test_sweep_that_was_stopped_can_be_gone_on_with(admin: Admin, redis: Redis) -> None:
    await state.seed_pending(redis, *messages(10))
    async for _ in admin.sweep(QUEUE, Target.DELETED, TaskState.PENDING):
        break
    assert await listed(redis, "pending") == [f"t{n}" for n in range(4, 10)]
    assert await steps(admin, Target.DELETED, "pending") == [Step(4, 0), Step(2, 0)]
    assert await dump(redis) == {"asynq:queues": {b"default"}}


@pytest.mark.usefixtures("small_steps")
async def test_sweep_passes_over_what_cannot_be_moved(admin: Admin, redis: Redis) -> None:
    await state.seed_retry(redis, *messages(9), at=1)
    for n in (0, 1, 2, 3, 7):
        await ask(redis, "HSET", state.task_key(QUEUE, f"t{n}"), "state", "odd")
    assert await steps(admin, Target.PENDING, "retry") == [Step(0, 4), Step(3, 5), Step(1, 5)]
    assert await listed(redis, "pending") == ["t4", "t5", "t6", "t8"]


@pytest.mark.usefixtures("small_steps")
async def test_sweep_finds_its_way_while_workers_take_tasks(admin: Admin, redis: Redis) -> None:
    await state.seed_pending(redis, *messages(20))
    sweep = admin.sweep(QUEUE, Target.DELETED, TaskState.PENDING, fits=even)
    async for _ in sweep:
        await ask(redis, "RPOP", key(QUEUE, "pending"))
    assert await listed(redis, "pending") == ["t11", "t13", "t15", "t17", "t19"]


@pytest.mark.usefixtures("small_steps")
async def test_sweep_finds_all_that_fit_while_others_delete_what_stayed(
    admin: Admin, redis: Redis
) -> None:
    await state.seed_pending(redis, *messages(20))
    moved = 0
    async for step in admin.sweep(QUEUE, Target.DELETED, TaskState.PENDING, fits=even):
        moved += step.moved
        last = (await listed(redis, "pending"))[step.passed - 1]
        await ask(redis, "LREM", key(QUEUE, "pending"), 1, last)
    assert moved == 10
    assert await listed(redis, "pending") == ["t1", "t5", "t9", "t13", "t17"]


async def test_sweep_of_a_group_leaves_the_others(admin: Admin, redis: Redis) -> None:
    await state.seed_aggregating(redis, *messages(3, group_key="g"), at=1)
    await state.seed_aggregating(redis, *messages(2, prefix="h", group_key="h"), at=1)
    assert await steps(admin, Target.PENDING, "aggregating", group="g") == [Step(3, 0)]
    assert {it.group: it.size async for it in admin.groups(QUEUE)} == {"h": 2}
    assert await invariants(redis) == []


async def test_groups_come_once_each_however_many_there_are(admin: Admin, redis: Redis) -> None:
    names = [f"group {n}" for n in range(1_300)]
    await ask(redis, "SADD", key(QUEUE, "groups"), *names)
    await ask(redis, "ZADD", key(QUEUE, "g:group 7"), 1, "a", 1, "b")
    await ask(redis, "SET", key(QUEUE, "g:group 8"), "no sorted set")
    found = [(it.group, it.size) async for it in admin.groups(QUEUE)]
    assert sorted(name for name, _ in found) == sorted(names)
    assert [it for it in found if it[1]] == [("group 7", 2)]


async def test_removed_queue_leaves_nothing_but_what_was_set_aside(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    await ask(redis, "SADD", "asynq:queues", QUEUE, "other")
    for name in ("paused", "processed", "failed", "processed:2026-01-01", "failed:2026-01-01"):
        await ask(redis, "SET", key(QUEUE, name), 1)
    await ask(redis, "SET", state.lock_key(), "gone")
    await ask(redis, "SET", "asynqpy:{default}:reconciler", "somebody")
    await ask(redis, "ZADD", "asynqpy:{default}:quarantine", 1, "bad")
    await ask(redis, "SET", "asynq:{other}:processed", 5)
    assert await admin.remove_queue(QUEUE)
    assert await dump(redis) == {
        "asynq:queues": {b"other"},
        "asynq:{other}:processed": b"5",
        "asynqpy:{default}:quarantine": {b"bad": 1.0},
    }


@pytest.mark.parametrize(
    "container", ["pending", "active", "scheduled", "retry", "archived", "completed", "g:g"]
)
async def test_queue_that_holds_something_is_not_removed(
    admin: Admin, redis: Redis, container: str
) -> None:
    await seed_healthy(redis)
    names = [key(QUEUE, it) for it in ("pending", "active", "lease", "scheduled", "retry")]
    names += [key(QUEUE, it) for it in ("archived", "completed", "groups", "aggregation_sets")]
    listed_in = key(QUEUE, "groups" if container == "g:g" else container)
    await ask(redis, "DEL", *(name for name in names if name != listed_in))
    before = await dump(redis)
    assert not await admin.remove_queue(QUEUE)
    assert await dump(redis) == before


async def test_sets_that_nobody_works_on_go_back_to_their_groups(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    await seed_healthy(redis)
    assert await admin.reclaim_stale_sets(QUEUE) == 1
    name = key(QUEUE, f"g:well:{SET}")
    await ask(redis, "ZADD", key(QUEUE, "aggregation_sets"), clock.now() - 100, name)
    assert await admin.reclaim_stale_sets(QUEUE) == 0
    assert (await scores(redis, "g:well")).keys() == {"g", "set"}


async def test_every_shape_of_redis_can_be_steered(deployment: Deployment) -> None:
    admin, broker = Admin(deployment.url), Broker(deployment.url)
    try:
        tasks = [new_task(f"t{n}", queue=f"q{n % 3}") for n in range(9)]
        assert await broker.enqueue(tasks) == [None] * 9
        assert await admin.queues() == ["q0", "q1", "q2"]
        infos = await admin.queue_infos(["q0", "q1", "q2"], memory=True)
        assert [getattr(info, "pending", info) for info in infos] == [3, 3, 3]
        for queue in await admin.queues():
            done = [it async for it in admin.sweep(queue, Target.DELETED, TaskState.PENDING)]
            assert done == [Step(3, 0)]
            assert await admin.remove_queue(queue)
        assert await admin.queues() == []
    finally:
        await admin.close()
        await broker.close()


async def test_nodes_of_a_cluster_that_have_a_queue_are_named(cluster: ClusterProcesses) -> None:
    admin = Admin(cluster.url)
    try:
        assert [admin.key_slot(queue) for queue in ("default", "critical")] == [5718, 8090]
        (primary,) = await admin.cluster_nodes("default")
        owner = next(it for it in cluster.nodes if it.ask("CLUSTER", "MYID").decode() == primary.id)
        assert primary.address == owner.address
    finally:
        await admin.close()


@single.ITS_DATABASES
async def test_single_server_has_no_cluster_nodes(admin: Admin) -> None:
    with pytest.raises(BrokerError, match="cluster support disabled"):
        await admin.cluster_nodes(QUEUE)
