from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from redis.asyncio import Redis

from asynqpy.broker.admin import queues
from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.admin.queues import QueueInfo, last_days
from asynqpy.errors import BrokerError
from tests import redis_state as state
from tests.damage import seed_healthy
from tests.fake_clock import FakeClock
from tests.redis_state import ask, key, message, messages

QUEUE = "default"


async def info_of(admin: Admin, queue: str = QUEUE, *, memory: bool = False) -> QueueInfo:
    (info,) = await admin.queue_infos([queue], memory=memory)
    assert not isinstance(info, BrokerError)
    return info


async def test_info_counts_the_tasks_of_every_state(admin: Admin, redis: Redis) -> None:
    await seed_healthy(redis)
    info = await info_of(admin)
    sizes = (info.pending, info.active, info.scheduled, info.retry, info.archived, info.completed)
    assert sizes == (2, 2, 1, 1, 1, 1)
    assert (info.aggregating, info.groups, info.size) == (1, 1, 9)
    assert (info.is_paused, info.memory_usage) == (False, None)


async def test_info_has_the_counters_of_today_and_in_all(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    for name, value in {
        "processed": 900,
        "failed": 80,
        f"processed:{today}": 7,
        f"failed:{today}": 6,
        f"processed:{today - timedelta(days=1)}": 55,
    }.items():
        await ask(redis, "SET", key(QUEUE, name), value)
    info = await info_of(admin)
    assert (info.processed_total, info.failed_total) == (900, 80)
    assert (info.processed, info.failed) == (7, 6)


async def test_latency_is_the_wait_of_the_task_that_is_next(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    assert (await info_of(admin)).latency == timedelta(0)
    await state.seed_pending(redis, *messages(2))
    for task_id, waited in (("t0", 90), ("t1", 5)):
        since = int(clock.now() - waited) * 1_000_000_000
        await ask(redis, "HSET", state.task_key(QUEUE, task_id), "pending_since", since)
    assert (await info_of(admin)).latency == timedelta(seconds=90)
    await ask(redis, "HSET", state.task_key(QUEUE, "t0"), "pending_since", "1.7e18")
    assert (await info_of(admin)).latency == timedelta(0)


async def test_latency_is_never_negative(admin: Admin, redis: Redis, clock: FakeClock) -> None:
    await state.seed_pending(redis, message())
    since = int(clock.now() + 50) * 1_000_000_000
    await ask(redis, "HSET", state.task_key(QUEUE, "t1"), "pending_since", since)
    assert (await info_of(admin)).latency == timedelta(0)


async def test_members_of_many_groups_are_counted_outside_of_the_script(
    admin: Admin, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST_GROUPS", 2)
    for n in range(5):
        tasks = messages(n + 1, prefix=f"g{n}-", group_key=f"g{n}")
        await state.seed_aggregating(redis, *tasks, at=1)
    info = await info_of(admin, memory=True)
    assert (info.aggregating, info.groups) == (15, 5)
    assert info.memory_usage is not None


async def test_key_of_the_wrong_type_counts_as_empty(admin: Admin, redis: Redis) -> None:
    await seed_healthy(redis)
    for name in ("pending", "retry", "groups", "processed"):
        await ask(redis, "DEL", key(QUEUE, name))
        await ask(redis, "HSET", key(QUEUE, name), "what", "is this")
    info = await info_of(admin, memory=True)
    assert (info.pending, info.retry, info.groups, info.aggregating) == (0, 0, 0, 0)
    assert (info.processed_total, info.scheduled) == (0, 1)


async def test_memory_is_the_mean_of_a_sample_times_the_number(admin: Admin, redis: Redis) -> None:
    await state.seed_retry(redis, *messages(40, payload=b"x" * 5_000), at=1)
    of_task = await ask(redis, "MEMORY", "USAGE", state.task_key(QUEUE, "t0"))
    of_list = await ask(redis, "MEMORY", "USAGE", key(QUEUE, "retry"))
    assert (await info_of(admin, memory=True)).memory_usage == 40 * of_task + of_list
    await state.seed_aggregating(redis, *messages(9, prefix="g", group_key="g"), at=1)
    of_member = await ask(redis, "MEMORY", "USAGE", state.task_key(QUEUE, "g0"))
    with_group = (await info_of(admin, memory=True)).memory_usage
    assert with_group == 40 * of_task + of_list + 9 * of_member


async def test_entry_without_a_task_takes_no_memory(admin: Admin, redis: Redis) -> None:
    await state.seed_pending(redis, *messages(2))
    await ask(redis, "DEL", state.task_key(QUEUE, "t1"))
    await ask(redis, "SADD", key(QUEUE, "groups"), "of nobody")
    of_task = await ask(redis, "MEMORY", "USAGE", state.task_key(QUEUE, "t0"))
    of_list = await ask(redis, "MEMORY", "USAGE", key(QUEUE, "pending"))
    assert (await info_of(admin, memory=True)).memory_usage == of_task + of_list


async def test_many_queues_are_told_in_their_order(admin: Admin, redis: Redis) -> None:
    names = [f"q{n}" for n in range(120)]
    await state.seed_pending(redis, message(queue="q7"), message("t2", queue="q7"))
    await state.seed_retry(redis, message(queue="q119"), at=1)
    infos = [it for it in await admin.queue_infos(names, memory=True) if isinstance(it, QueueInfo)]
    assert [info.queue for info in infos] == names
    assert {it.queue: (it.pending, it.retry) for it in infos if it.size} == {
        "q7": (2, 0),
        "q119": (0, 1),
    }


def test_days_go_back_from_today() -> None:
    days = list(last_days(date(2026, 3, 1), 3))
    assert days == [date(2026, 3, 1), date(2026, 2, 28), date(2026, 2, 27)]


async def test_history_has_a_line_a_day_and_zeros_where_nothing_was_done(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    today = datetime.fromtimestamp(clock.now(), UTC).date()
    await ask(redis, "SET", key(QUEUE, f"processed:{today}"), 5)
    await ask(redis, "SET", key(QUEUE, f"failed:{today - timedelta(days=2)}"), 2)
    days = await admin.history(QUEUE, 3)
    assert [(it.date, it.processed, it.failed) for it in days] == [
        (today, 5, 0),
        (today - timedelta(days=1), 0, 0),
        (today - timedelta(days=2), 0, 2),
    ]


async def test_pausing_is_told_once(admin: Admin, redis: Redis, clock: FakeClock) -> None:
    assert [await admin.pause(QUEUE), await admin.pause(QUEUE)] == [True, False]
    assert await ask(redis, "GET", key(QUEUE, "paused")) == b"%d" % clock.now()
    assert (await info_of(admin)).is_paused
    assert [await admin.unpause(QUEUE), await admin.unpause(QUEUE)] == [True, False]
    assert not (await info_of(admin)).is_paused
