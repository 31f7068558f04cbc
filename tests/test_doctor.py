from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import BrokerUnavailableError, Doctor, Problem
from tests.damage import (
    DAMAGES,
    Damage,
    active_task_without_a_lease,
    listed_group_without_members,
    seed_healthy,
    soon,
)
from tests.redis_state import (
    ask,
    dump,
    invariants,
    message,
    seed_active,
    seed_many,
    states,
    task_key,
)


@pytest.fixture
async def doctor(redis_url: str) -> AsyncIterator[Doctor]:
    async with Doctor(redis_url) as doctor:
        yield doctor


async def test_healthy_queue_is_found_healthy_and_left_alone(doctor: Doctor, redis: Redis) -> None:
    await seed_healthy(redis)
    before = await dump(redis)
    for look in (doctor.examine, doctor.heal):
        report = await look()
        assert report.findings == ()
        assert report.is_healthy
        assert (report.tasks, report.queues) == (10, ("default",))
    assert await dump(redis) == before


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
async def test_damage_is_told_of_and_healed_and_healthy_tasks_stay_as_they_are(
    doctor: Doctor, redis: Redis, damage: Damage
) -> None:
    await seed_healthy(redis)
    healthy = await dump(redis, "asynq:{default}:t:*")
    await damage.inflict(redis)
    damaged = await dump(redis)

    told = await doctor.examine()
    assert await dump(redis) == damaged
    assert damage.problem in told.problems
    assert not told.is_healthy
    assert not any(finding.is_healed for finding in told.findings)

    healed = await doctor.heal()
    assert await invariants(redis) == []
    assert damage.problem in healed.problems
    assert healed.is_healthy
    assert await states(redis, "bad") == [damage.state]
    left = await dump(redis, "asynq:{default}:t:*")
    if damage.problem is Problem.WRONG_TYPE:
        healthy.pop("asynq:{default}:t:s")  # it lost its place when the key was overwritten
    assert {name: left[name] for name in healthy} == healthy

    after = await dump(redis)
    assert (await doctor.heal()).findings == ()
    assert await dump(redis) == after


async def test_report_reads_as_a_table_with_examples(doctor: Doctor, redis: Redis) -> None:
    await seed_healthy(redis)
    await active_task_without_a_lease(redis)
    await listed_group_without_members(redis)
    lines = str(await doctor.examine()).splitlines()
    assert lines[0].startswith("12 tasks of 1 queue looked at in ")
    assert lines[0].endswith(": 2 problems found, nothing changed")
    assert lines[1:] == [
        "  I3          1  active task without a lease",
        "                   default: bad (state active, in active) -> put in pending",
        "  I6          1  listed group without members",
        "                   default: empty -> taken out of groups",
    ]
    assert str(await doctor.heal()).splitlines()[0].endswith(": 2 problems found, 2 healed")
    assert str(await doctor.examine()).endswith(": healthy")


async def test_report_counts_all_and_keeps_some(doctor: Doctor, redis: Redis) -> None:
    await seed_many(redis, "pending", {f"t{n}": 0 for n in range(250)})
    await ask(redis, "DEL", *[task_key("default", f"t{n}") for n in range(250)])
    report = await doctor.heal()
    assert report.problems == {Problem.NO_RECORD: 250}
    assert report.invariants == {"I1": 250}
    assert (report.unhealed, report.is_healthy) == ({}, True)
    assert len(report.findings) == 100


async def test_task_in_the_hands_of_a_worker_is_left_to_it_and_told(
    doctor: Doctor, redis: Redis
) -> None:
    await seed_active(redis, message("bad"), lease=soon())
    await ask(redis, "DEL", task_key("default", "bad"))
    report = await doctor.heal()
    assert report.unhealed == {Problem.NO_RECORD: 1}
    assert not report.is_healthy
    assert [finding.repair for finding in report.findings] == ["left"]
    assert "listed id without a task, 1 left" in str(report)


async def test_progress_ends_at_the_total(doctor: Doctor, redis: Redis) -> None:
    await seed_healthy(redis)
    calls: list[tuple[int, int]] = []
    await doctor.examine(on_progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 2
    assert all(0 <= done <= total for done, total in calls)
    assert calls[-1][0] == calls[-1][1]


async def test_queues_can_be_named(doctor: Doctor, redis: Redis) -> None:
    await active_task_without_a_lease(redis)
    assert (await doctor.examine(["low"])).is_healthy
    assert not (await doctor.examine(["low", "default", "low"])).is_healthy
    assert (await doctor.examine([])).queues == ()


@pytest.mark.parametrize(
    ("queues", "error"), [("default", TypeError), ([""], ValueError), (["a{b}"], ValueError)]
)
async def test_what_is_no_name_of_a_queue_is_refused(
    doctor: Doctor, queues: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await doctor.examine(queues)


async def test_redis_that_is_away_is_a_broker_error() -> None:
    async with Doctor("redis://127.0.0.1:1") as doctor:
        assert repr(doctor) == "<Doctor <Broker 127.0.0.1:1/0>>"
        with pytest.raises(BrokerUnavailableError):
            await doctor.examine()
