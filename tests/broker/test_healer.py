from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from asynqpy.broker import healer as module
from asynqpy.broker.connection import Connection
from asynqpy.broker.findings import Problem
from asynqpy.broker.healer import Healer, Steps
from asynqpy.broker.reconciling import Suspect
from asynqpy.broker.scripts import Runner
from asynqpy.errors import BrokerError
from tests.damage import bad
from tests.fake_clock import FakeClock
from tests.redis_state import ask, dump, key, messages, seed_pending, task_key


@pytest.fixture
async def runner(redis_url: str) -> AsyncIterator[Runner]:
    connection = Connection.open(redis_url)
    yield Runner(connection)
    await connection.close()


async def sizes(steps: Steps) -> list[int]:
    return [len(step.findings) async for step in steps]


async def test_the_longer_the_lists_the_fewer_tasks_are_verified_at_a_time(
    runner: Runner, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = messages(8)
    await seed_pending(redis, *tasks)
    suspects = [Suspect(task.id.encode(), in_pending=True) for task in tasks]
    for task in tasks:
        await ask(redis, "DEL", task_key("default", task.id))
    healer = Healer(runner, clock, heals=False)
    assert await sizes(healer.reconcile("default", suspects)) == [8]
    monkeypatch.setattr(module, "_SEARCHED", 30)
    assert await sizes(healer.reconcile("default", suspects)) == [3, 3, 2]
    monkeypatch.setattr(module, "_SEARCHED", 1)
    assert await sizes(healer.reconcile("default", suspects)) == [1] * 8


async def test_task_that_is_suspected_twice_is_verified_once(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await seed_pending(redis, bad())
    await ask(redis, "DEL", key("default", "pending"))
    healer = Healer(runner, clock, heals=True)
    assert await sizes(healer.reconcile("default", [Suspect(b"bad"), Suspect(b"bad")])) == [1]
    assert await sizes(healer.reconcile("default", [])) == []


async def test_dry_run_tells_of_keys_and_leaves_them(
    runner: Runner, redis: Redis, clock: FakeClock
) -> None:
    await ask(redis, "SET", key("default", "groups"), "x")
    before = await dump(redis)
    step, is_there = await Healer(runner, clock, heals=False).check_containers("default")
    assert [(f.problem, f.subject, f.is_healed) for f in step.findings] == [
        (Problem.WRONG_TYPE, "groups", False)
    ]
    assert is_there
    assert await dump(redis) == before


async def test_only_a_wrong_type_on_a_dry_run_is_excused(runner: Runner, clock: FakeClock) -> None:
    wrong_type, other = BrokerError("WRONGTYPE"), BrokerError("something else")
    Healer(runner, clock, heals=False).excuse(wrong_type)
    for healer, error in ((False, other), (True, wrong_type)):
        with pytest.raises(BrokerError):
            Healer(runner, clock, heals=healer).excuse(error)
