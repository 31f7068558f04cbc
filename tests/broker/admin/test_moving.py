from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.broker.admin import moving
from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.admin.moving import Move, Target
from asynqpy.broker.messages import TaskState
from asynqpy.errors import BrokerError
from tests import redis_state as state
from tests import single
from tests.fake_clock import FakeClock
from tests.redis_process import RedisProcess
from tests.redis_state import ask, dump, invariants, key, listed, message, scores, task_hash

QUEUE = "default"

#: No task is due, and none too old for the archive.
THEN = 1_800_000_000


async def seed(redis: Redis, task_id: str, where: str, **fields: object) -> None:
    task = message(task_id, **fields)
    match where:
        case "pending":
            await state.seed_pending(redis, task)
        case "active":
            await state.seed_active(redis, task, lease=THEN)
        case "scheduled":
            await state.seed_scheduled(redis, task, at=THEN)
        case "retry":
            await state.seed_retry(redis, task, at=THEN)
        case "archived":
            await state.seed_archived(redis, task, at=THEN)
        case "completed":
            await state.seed_completed(redis, task, until=THEN)
        case "aggregating":
            task.group_key = "g"
            await state.seed_aggregating(redis, task, at=THEN)


async def where_is(redis: Redis, task_id: str) -> list[str]:
    """Every list that has the task."""
    found = await dump(redis, f"asynq:{{{QUEUE}}}:*")
    containers = {name.partition("}:")[2]: entries for name, entries in found.items()}
    return [
        name
        for name, entries in containers.items()
        if not name.startswith(("t:", "unique:")) and isinstance(entries, list | dict)
        if task_id.encode() in entries
    ]


WAITING = ["pending", "scheduled", "retry", "archived", "completed", "aggregating"]


@pytest.mark.parametrize("target", ["pending", "archived", "scheduled"])
@pytest.mark.parametrize("source", WAITING)
async def test_task_moves_from_any_state_but_active(
    admin: Admin, redis: Redis, source: str, target: str
) -> None:
    await seed(redis, "t1", source)
    await seed(redis, "other", source)
    (answer,) = await admin.move(QUEUE, Target(target), [Move("t1", at=THEN + 60)])
    if source == target and target != "scheduled":
        assert (answer, await where_is(redis, "t1")) == (source, [source])
        return
    assert answer == "moved"
    stays = target == "scheduled" and source == "retry"
    expected = "retry" if stays else target
    assert await where_is(redis, "t1") == [expected]
    assert (await task_hash(redis, "t1"))["state"] == expected.encode()
    assert await where_is(redis, "other") == ["g:g" if source == "aggregating" else source]
    assert await invariants(redis) == []


async def test_what_is_moved_is_stamped_with_the_time_of_the_clock(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    await seed(redis, "run", "archived")
    await seed(redis, "kept", "pending")
    await seed(redis, "later", "retry")
    await ask(redis, "HSET", state.task_key(QUEUE, "run"), "crashes", 2, "owner", "somebody")
    await admin.move(QUEUE, Target.PENDING, [Move("run")])
    await admin.move(QUEUE, Target.ARCHIVED, [Move("kept")])
    await admin.move(QUEUE, Target.SCHEDULED, [Move("later", at=THEN + 60)])
    run = await task_hash(redis, "run")
    assert run.keys() == {"msg", "state", "pending_since"}
    assert int(run["pending_since"]) == int(clock.now()) * 1_000_000_000
    assert (await task_hash(redis, "kept")).keys() == {"msg", "state"}
    assert await scores(redis, "archived") == {"kept": int(clock.now())}
    assert await scores(redis, "retry") == {"later": THEN + 60}


@pytest.mark.parametrize("target", [Target.PENDING, Target.ARCHIVED, Target.DELETED])
async def test_active_task_is_left_to_its_worker(
    admin: Admin, redis: Redis, target: Target
) -> None:
    await seed(redis, "t1", "active")
    before = await dump(redis)
    assert await admin.move(QUEUE, target, [Move("t1")]) == ["active"]
    assert await dump(redis) == before


@pytest.mark.parametrize("source", WAITING)
async def test_deleted_task_leaves_nothing_behind(admin: Admin, redis: Redis, source: str) -> None:
    lock = state.lock_key()
    await seed(redis, "t1", source, unique_key=lock)
    await ask(redis, "HDEL", state.task_key(QUEUE, "t1"), "unique_key")  # as Go's of a group
    assert await admin.move(QUEUE, Target.DELETED, [Move("t1")]) == ["moved"]
    assert await dump(redis) == {"asynq:queues": {b"default"}}


@pytest.mark.parametrize("length", [3, 90, 91, 300])
async def test_lock_is_found_in_the_message_whatever_its_length(
    admin: Admin, redis: Redis, length: int
) -> None:
    lock = state.lock_key(name="n" * length)
    spoof = key(QUEUE, "unique:") + "somebody's"
    await ask(redis, "SET", spoof, "t2")
    await seed(redis, "t1", "retry", unique_key=lock, payload=b"R" + spoof.encode() + b"\xff")
    await admin.move(QUEUE, Target.DELETED, [Move("t1")])
    assert await dump(redis, "*unique*") == {spoof: b"t2"}


async def test_lock_that_another_task_holds_by_now_stays(admin: Admin, redis: Redis) -> None:
    await seed(redis, "t1", "archived", unique_key=state.lock_key())
    await ask(redis, "SET", state.lock_key(), "t2")
    await admin.move(QUEUE, Target.DELETED, [Move("t1")])
    assert await dump(redis, "*unique*") == {state.lock_key(): b"t2"}


@pytest.mark.parametrize("target", [Target.PENDING, Target.ARCHIVED])
async def test_lock_of_a_task_that_is_moved_stays(
    admin: Admin, redis: Redis, target: Target
) -> None:
    await seed(redis, "t1", "retry", unique_key=state.lock_key())
    await admin.move(QUEUE, target, [Move("t1")])
    assert await dump(redis, "*unique*") == {state.lock_key(): b"t1"}


async def test_archive_keeps_its_limit_and_what_it_drops_goes_whole(
    admin: Admin, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "ARCHIVE_LIMIT", 3)
    now = int(clock.now())
    await state.seed_archived(redis, message("old", unique_key=state.lock_key()), at=now - 5)
    for n in range(3):
        await state.seed_archived(redis, message(f"a{n}"), at=now - 4 + n)
    await seed(redis, "t1", "pending")
    await admin.move(QUEUE, Target.ARCHIVED, [Move("t1")])
    assert list(await scores(redis, "archived")) == ["a1", "a2", "t1"]
    assert await state.states(redis, "old", "a0") == ["", ""]
    assert await dump(redis, "*unique*") == {}
    assert await invariants(redis) == []


async def test_archive_drops_what_is_older_than_90_days(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    await state.seed_archived(redis, message("old"), at=clock.now() - 90 * 86_400)
    await state.seed_archived(redis, message("young"), at=clock.now() - 90 * 86_400 + 1)
    await seed(redis, "t1", "retry")
    await admin.move(QUEUE, Target.ARCHIVED, [Move("t1")])
    assert list(await scores(redis, "archived")) == ["young", "t1"]


async def test_tasks_that_run_keep_their_order_and_run_after_those_that_wait(
    admin: Admin, redis: Redis
) -> None:
    await seed(redis, "first", "pending")
    for task_id in ("a", "b", "c"):
        await seed(redis, task_id, "retry")
    await admin.move(QUEUE, Target.PENDING, [Move("c"), Move("a"), Move("b")])
    assert await listed(redis, "pending") == ["first", "c", "a", "b"]


@pytest.mark.parametrize("index", [None, 1, 3, 99])
async def test_pending_task_is_found_wherever_it_was_seen(
    admin: Admin, redis: Redis, index: int | None
) -> None:
    await state.seed_pending(redis, *state.messages(6))
    moves = [Move("t1", index=index), Move("t3", index=index), Move("t5")]
    assert await admin.move(QUEUE, Target.DELETED, moves) == ["moved"] * 3
    assert await listed(redis, "pending") == ["t0", "t2", "t4"]
    assert await invariants(redis) == []


async def test_one_call_walks_through_a_long_list_only_so_often(
    admin: Admin, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_WALKED", 10)
    await state.seed_pending(redis, *state.messages(6))
    moves = [Move("t1"), Move("t2"), Move("t3", index=3)]
    assert await admin.move(QUEUE, Target.DELETED, moves) == ["moved", "later", "moved"]
    assert await listed(redis, "pending") == ["t0", "t2", "t4", "t5"]


async def test_only_tasks_of_the_state_and_group_that_are_meant_are_moved(
    admin: Admin, redis: Redis
) -> None:
    await seed(redis, "a", "archived")
    await seed(redis, "r", "retry")
    await state.seed_aggregating(redis, message("g", group_key="g"), at=THEN)
    await state.seed_aggregating(redis, message("h", group_key="h"), at=THEN)
    moves = [Move("a"), Move("r")]
    answers = await admin.move(QUEUE, Target.PENDING, moves, state=TaskState.RETRY)
    assert answers == ["archived", "moved"]
    answers = await admin.move(
        QUEUE, Target.PENDING, [Move("g"), Move("h")], state=TaskState.AGGREGATING, group="h"
    )
    assert answers == ["gone", "moved"]
    assert await ask(redis, "SMEMBERS", key(QUEUE, "groups")) == {b"g"}


async def test_message_is_replaced_only_if_it_is_the_expected_one(
    admin: Admin, redis: Redis
) -> None:
    await seed(redis, "t1", "scheduled")
    old, new = message("t1").SerializeToString(), message("t1", payload=b"new").SerializeToString()
    (answer,) = await admin.move(QUEUE, Target.KEPT, [Move("t1", expected=b"no", message=new)])
    assert answer == "changed"
    assert (await task_hash(redis, "t1"))["msg"] == old
    before = await dump(redis)
    (answer,) = await admin.move(QUEUE, Target.KEPT, [Move("t1", expected=old, message=new)])
    assert answer == "moved"
    before[state.task_key(QUEUE, "t1")][b"msg"] = new
    assert await dump(redis) == before


async def test_task_that_an_aggregator_has_is_left_to_it(admin: Admin, redis: Redis) -> None:
    await seed(redis, "t1", "aggregating")
    await ask(redis, "RENAME", key(QUEUE, "g:g"), key(QUEUE, "g:g:1"))
    assert await admin.move(QUEUE, Target.DELETED, [Move("t1")]) == ["aggregating"]


async def test_task_that_is_in_none_of_its_lists_is_left_to_the_doctor(
    admin: Admin, redis: Redis
) -> None:
    for task_id, source in (("p", "pending"), ("r", "retry")):
        await seed(redis, task_id, source)
    await ask(redis, "DEL", key(QUEUE, "pending"), key(QUEUE, "retry"))
    await ask(redis, "HSET", state.task_key(QUEUE, "odd"), "msg", "m", "state", "odd")
    await ask(redis, "HSET", state.task_key(QUEUE, "mute"), "msg", "m")
    before = await dump(redis)
    moves = [Move("p"), Move("r"), Move("odd"), Move("mute"), Move("none")]
    assert await admin.move(QUEUE, Target.ARCHIVED, moves) == ["unlisted"] * 4 + ["gone"]
    assert await dump(redis) == before


@pytest.mark.parametrize("source", WAITING)
async def test_entry_without_a_task_goes_when_its_list_is_emptied(
    admin: Admin, redis: Redis, source: str
) -> None:
    await seed(redis, "t1", source)
    await ask(redis, "DEL", state.task_key(QUEUE, "t1"))
    group = "g" if source == "aggregating" else ""
    move = Move("t1", index=0)
    for target in (Target.ARCHIVED, Target.PENDING):
        assert await admin.move(QUEUE, target, [move], state=TaskState(source), group=group) == [
            "gone"
        ]
    answers = await admin.move(QUEUE, Target.DELETED, [move], state=TaskState(source), group=group)
    assert answers == ["moved"]
    assert await dump(redis) == {"asynq:queues": {b"default"}}


@pytest.mark.parametrize("container", ["pending", "scheduled", "archived", "groups"])
async def test_nothing_is_done_where_a_list_holds_the_wrong_type(
    admin: Admin, redis: Redis, container: str
) -> None:
    await seed(redis, "t1", "retry")
    await ask(redis, "SET", key(QUEUE, container), "what is this")
    before = await dump(redis)
    for target in (Target.PENDING, Target.ARCHIVED, Target.DELETED):
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await admin.move(QUEUE, target, [Move("t1")])
    assert await dump(redis) == before


@single.ITS_SETTINGS
async def test_full_redis_can_be_drained_by_hand(
    admin: Admin, redis: Redis, redis_server: RedisProcess
) -> None:
    await seed(redis, "t1", "pending")
    await seed(redis, "t2", "retry")
    await admin.queues()
    redis_server.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        assert await admin.move(QUEUE, Target.DELETED, [Move("t1", index=0)]) == ["moved"]
        assert await admin.move(QUEUE, Target.PENDING, [Move("t2")]) == ["moved"]
    finally:
        redis_server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await listed(redis, "pending") == ["t2"]
