from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from asynqpy.server.forwarder import Forwarder
from tests import single
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    invariants,
    key,
    listed,
    message,
    messages,
    scores,
    seed_retry,
    seed_scheduled,
    states,
)


@pytest.fixture
def forwarder(broker: FlakyBroker, clock: FakeClock) -> Forwarder:
    return Forwarder(broker=broker, clock=clock, queues=["default", "low"], interval=5.0)


async def test_due_tasks_become_pending_in_the_order_they_fell_due(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    now = clock.now()
    await seed_scheduled(redis, message("second"), at=now - 1)
    await seed_scheduled(redis, message("first"), at=now - 2)
    await seed_retry(redis, message("third"), at=now)
    await forwarder.tick()
    assert await listed(redis, "pending") == ["first", "second", "third"]
    assert await invariants(redis) == []


async def test_task_is_left_alone_until_its_second_has_come(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    await seed_scheduled(redis, message(), at=clock.now() + 1)
    await forwarder.tick()
    assert await states(redis, "t1") == ["scheduled"]
    clock.advance(1)
    await forwarder.tick()
    assert await states(redis, "t1") == ["pending"]


async def test_every_queue_is_served(forwarder: Forwarder, redis: Redis, clock: FakeClock) -> None:
    await seed_scheduled(redis, message(), at=clock.now())
    await seed_scheduled(redis, message(queue="low"), at=clock.now())
    await forwarder.tick()
    assert await listed(redis, "pending") == ["t1"]
    assert await listed(redis, "pending", "low") == ["t1"]


async def test_more_than_a_batch_falls_due_at_once(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    await seed_scheduled(redis, *messages(600), at=clock.now())
    await forwarder.tick()
    assert len(await listed(redis, "pending")) == 600
    assert await scores(redis, "scheduled") == {}


async def test_sleeps_until_the_next_task_is_due_but_no_longer_than_the_interval(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    assert await forwarder.tick() == 5.0
    await seed_scheduled(redis, message("late"), at=clock.now() + 60)
    assert await forwarder.tick() == 5.0
    await seed_retry(redis, message("soon"), at=clock.now() + 2)
    assert await forwarder.tick() == 2.0


async def test_does_not_spin_on_a_task_that_is_due_in_a_moment(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    await seed_scheduled(redis, message(), at=clock.now() + 1)
    clock.advance(0.999)
    assert await forwarder.tick() == 0.02


async def test_id_without_a_task_is_set_aside_and_the_others_forwarded(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    await ask(redis, "ZADD", key("default", "scheduled"), clock.now() - 1, "ghost")
    await seed_scheduled(redis, message(), at=clock.now())
    await forwarder.tick()
    assert await listed(redis, "pending") == ["t1"]
    assert await ask(redis, "ZRANGE", "asynqpy:{default}:quarantine", 0, -1) == [b"ghost"]
    assert await invariants(redis) == []


async def test_running_forwarder_moves_a_task_when_it_falls_due(
    forwarder: Forwarder, redis: Redis, clock: FakeClock
) -> None:
    await seed_scheduled(redis, message(), at=clock.now() + 1)
    clock.advance(0.999)
    forwarder.start()
    clock.advance(0.001)
    await eventually(lambda: listed(redis, "pending"))
    await forwarder.stop()


async def test_retry_that_is_due_before_the_next_pass_brings_the_pass_forward(
    forwarder: Forwarder, redis: Redis, clock: FakeClock, broker: FlakyBroker
) -> None:
    forwarder.start()
    await eventually(lambda: broker.calls == 1)
    await seed_retry(redis, message(), at=clock.now())
    forwarder.expect(clock.now())
    await eventually(lambda: listed(redis, "pending"))
    await forwarder.stop()


async def test_retry_that_the_next_pass_will_find_wakes_nobody(
    forwarder: Forwarder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes: list[str] = []
    monkeypatch.setattr(forwarder, "wake", lambda: wakes.append("woken"))
    await forwarder.tick()
    forwarder.expect(clock.now() + 60)
    assert wakes == []
    forwarder.expect(clock.now() + 4)
    assert wakes == ["woken"]


@pytest.fixture
async def told(broker: FlakyBroker) -> AsyncIterator[None]:
    """Redis tells of changes."""
    await broker.key_watch.open()
    job = asyncio.create_task(broker.key_watch.run())
    yield
    job.cancel()
    await asyncio.wait([job])
    await broker.key_watch.close()


@single.COUNTED
async def test_only_queues_that_have_changed_or_are_due_are_asked(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, told: None
) -> None:
    queues = [f"q{n}" for n in range(20)]
    forwarder = Forwarder(broker=broker, clock=clock, queues=queues, interval=5.0)
    now = clock.now()
    for n, queue in enumerate(queues):
        await seed_scheduled(redis, message(f"t{n}", queue=queue), at=now + 60)

    async def asked() -> int:
        await ask(redis, "CONFIG", "RESETSTAT")
        await forwarder.tick()
        statistics = await ask(redis, "INFO", "commandstats")
        return int(statistics.get("cmdstat_zrangebyscore", {"calls": 0})["calls"])

    everything = await asked()
    assert everything >= 20
    assert await asked() == 0
    await seed_scheduled(redis, message("sooner", queue="q7"), at=now + 2)
    await eventually(lambda: broker.key_watch.exists(key("q7", "scheduled")) is None)
    assert await asked() == everything / 20
    assert await forwarder.tick() == 2.0
    clock.advance(2)
    assert await asked() == everything / 20
    assert await listed(redis, "pending", "q7") == ["sooner"]
    clock.advance(58)
    await forwarder.tick()
    for n, queue in enumerate(queues):
        assert f"t{n}" in await listed(redis, "pending", queue)
