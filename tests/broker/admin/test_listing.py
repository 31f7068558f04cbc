from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.broker.admin import admin as module
from asynqpy.broker.admin import listing
from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.admin.listing import Record
from asynqpy.broker.messages import TaskState
from tests import redis_state as state
from tests.redis_state import ask, key, message, messages, task_key

QUEUE = "default"
PENDING, ARCHIVED = TaskState.PENDING, TaskState.ARCHIVED


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


async def test_pending_tasks_come_in_the_order_in_which_they_run(
    admin: Admin, redis: Redis
) -> None:
    await state.seed_pending(redis, *messages(7))
    assert ids(await admin.page(QUEUE, PENDING, "", 0, 3)) == ["t0", "t1", "t2"]
    assert ids(await admin.page(QUEUE, PENDING, "", 3, 3)) == ["t3", "t4", "t5"]
    assert ids(await admin.page(QUEUE, PENDING, "", 6, 3)) == ["t6"]
    assert ids(await admin.page(QUEUE, PENDING, "", 7, 3)) == []


async def test_tasks_of_a_sorted_set_come_by_their_score(admin: Admin, redis: Redis) -> None:
    for n in range(5):
        await state.seed_retry(redis, message(f"t{n}"), at=50 - n)
    page = await admin.page(QUEUE, TaskState.RETRY, "", 1, 2)
    assert [(it.id, it.score, it.index) for it in page] == [("t3", 47, 1), ("t2", 48, 2)]


async def test_record_has_all_that_redis_has(admin: Admin, redis: Redis) -> None:
    await state.seed_pending(redis, message("p"))
    await state.seed_active(redis, message("a"), lease="1700000000.5")
    await ask(redis, "HSET", task_key(QUEUE, "a"), "result", b"\x00\xff")
    (pending,) = await admin.page(QUEUE, PENDING, "", 0, 9)
    (active,) = await admin.page(QUEUE, TaskState.ACTIVE, "", 0, 9)
    assert pending.message is not None
    assert (pending.message.payload, pending.message.max_retry) == (b'{"user_id":42}', 25)
    assert (pending.pending_since, pending.lease, pending.result) == (state.SINCE_NS, None, None)
    assert (active.lease, active.result, active.score) == (1700000000.5, b"\x00\xff", None)


async def test_what_cannot_be_read_is_listed_without_a_message(admin: Admin, redis: Redis) -> None:
    await state.seed_archived(redis, *messages(3), at=1)
    await ask(redis, "DEL", task_key(QUEUE, "t0"))
    await ask(redis, "SET", task_key(QUEUE, "t0"), "no hash")
    await ask(redis, "HSET", task_key(QUEUE, "t1"), "msg", b"\xff\xff")
    page = await admin.page(QUEUE, ARCHIVED, "", 0, 9)
    assert [(it.id, it.message is None) for it in page] == [
        ("t0", True),
        ("t1", True),
        ("t2", False),
    ]


async def test_large_tasks_come_in_several_answers(
    admin: Admin, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_BYTES", 2_500)
    await state.seed_pending(redis, *messages(7, payload=b"x" * 1_000))
    assert ids(await admin.page(QUEUE, PENDING, "", 1, 5)) == ["t1", "t2", "t3", "t4", "t5"]
    pages = [ids(page) async for page in admin.pages(QUEUE, PENDING, "", 100)]
    assert pages == [["t0", "t1"], ["t2", "t3"], ["t4", "t5"], ["t6"]]


async def test_task_that_is_larger_than_an_answer_comes_alone(
    admin: Admin, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_BYTES", 10)
    await state.seed_pending(redis, *messages(3))
    assert ids(await admin.page(QUEUE, PENDING, "", 0, 9)) == ["t0", "t1", "t2"]


# While others come and go.


async def collected(admin: Admin, task_state: TaskState, between: object) -> list[str]:
    """What is listed, two at a time, when something happens after the second page."""
    found: list[str] = []
    async for page in admin.pages(QUEUE, task_state, "", 2):
        found += ids(page)
        if len(found) == 4:
            await between()  # type: ignore[operator]
    return found


@pytest.mark.parametrize("taken", [1, 3, 4, 6])
async def test_nothing_is_left_out_when_workers_take_tasks_meanwhile(
    admin: Admin, redis: Redis, taken: int
) -> None:
    await state.seed_pending(redis, *messages(10))

    async def work() -> None:
        for _ in range(taken):
            await ask(redis, "RPOP", key(QUEUE, "pending"))

    expected = [f"t{n}" for n in range(10) if n < 4 or n >= taken]
    assert await collected(admin, PENDING, work) == expected


async def test_nothing_is_left_out_far_down_a_list_of_which_much_is_taken(
    admin: Admin, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SEARCHED", 10)
    await state.seed_pending(redis, *messages(100))
    found: list[str] = []
    async for page in admin.pages(QUEUE, PENDING, "", 10):
        found += ids(page)
        if len(found) == 60:
            await ask(redis, "RPOP", key(QUEUE, "pending"), 35)
    assert found == [f"t{n}" for n in range(100)]


@pytest.mark.parametrize("task_state", [PENDING, TaskState.ACTIVE, ARCHIVED])
@pytest.mark.parametrize("every", [1, 2, 3])
async def test_whoever_deletes_what_is_read_reads_everything_once(
    admin: Admin, redis: Redis, task_state: TaskState, every: int
) -> None:
    tasks = messages(60)
    if task_state is PENDING:
        await state.seed_pending(redis, *tasks)
    elif task_state is TaskState.ACTIVE:
        await state.seed_active(redis, *tasks, lease=1)
    else:
        await state.seed_archived(redis, *tasks, at=1)
    found: list[str] = []
    async for page in admin.pages(QUEUE, task_state, "", 7):
        found += ids(page)
        for task_id in reversed(ids(page)):
            if int(task_id.removeprefix("t")) % every == 0:
                container = key(QUEUE, task_state)
                is_list = task_state is not ARCHIVED
                words = ("LREM", container, 1) if is_list else ("ZREM", container)
                await ask(redis, *words, task_id)
    assert sorted(found) == sorted(f"t{n}" for n in range(60))


async def test_what_comes_meanwhile_comes_last(admin: Admin, redis: Redis) -> None:
    await state.seed_pending(redis, *messages(6))

    async def enqueue() -> None:
        await state.seed_pending(redis, message("new"))

    assert await collected(admin, PENDING, enqueue) == [*(f"t{n}" for n in range(6)), "new"]


@pytest.mark.parametrize("same_score", [True, False])
@pytest.mark.parametrize("gone", [["t3"], ["t0", "t1"], ["t2", "t3"], ["t4"], ["t3", "t4"]])
async def test_nothing_is_left_out_or_repeated_when_tasks_leave_a_sorted_set(
    admin: Admin, redis: Redis, gone: list[str], same_score: bool
) -> None:
    for n in range(9):
        await state.seed_archived(redis, message(f"t{n}"), at=5 if same_score else n)

    async def leave() -> None:
        await ask(redis, "ZREM", key(QUEUE, "archived"), *gone)

    expected = [f"t{n}" for n in range(9) if n < 4 or f"t{n}" not in gone]
    assert await collected(admin, ARCHIVED, leave) == expected


async def test_task_whose_time_has_changed_meanwhile_does_not_lead_astray(
    admin: Admin, redis: Redis
) -> None:
    for n in range(8):
        await state.seed_retry(redis, message(f"t{n}"), at=10 * n)

    async def delay() -> None:
        await ask(redis, "ZADD", key(QUEUE, "retry"), 65, "t3")

    expected = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t3", "t7"]
    assert await collected(admin, TaskState.RETRY, delay) == expected


async def test_one_task_is_found_with_all_of_its_fields(admin: Admin, redis: Redis) -> None:
    await state.seed_aggregating(redis, message("t1", group_key="g"), at=7)
    found = await admin.find(QUEUE, "t1")
    assert found is not None
    assert (found.state, found.group, found.result) == ("aggregating", "g", None)
    assert await admin.score(QUEUE, TaskState.AGGREGATING, "g", "t1") == 7
    assert await admin.find(QUEUE, "t2") is None
    assert await admin.score(QUEUE, TaskState.ACTIVE, "", "t1") is None
