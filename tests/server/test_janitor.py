from __future__ import annotations

from redis.asyncio import Redis

from asynqpy.server.janitor import Janitor
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    invariants,
    message,
    messages,
    scores,
    seed_archived,
    seed_completed,
    states,
)


def a_janitor(broker: FlakyBroker, *, batch_size: int = 100) -> Janitor:
    return Janitor(broker=broker, queues=["default", "low"], interval=8.0, batch_size=batch_size)


async def test_completed_tasks_go_when_their_retention_ends(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_completed(redis, message("old"), until=clock.now())
    await seed_completed(redis, message("young"), until=clock.now() + 1)
    janitor = a_janitor(broker)
    await janitor.tick()
    assert await states(redis, "old", "young") == ["", "completed"]
    clock.advance(1)
    await janitor.tick()
    assert await states(redis, "young") == [""]
    assert await invariants(redis) == []


async def test_every_queue_is_swept_to_the_end_in_batches(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    for queue in ("default", "low"):
        await seed_completed(redis, *messages(25, queue=queue), until=clock.now())
    await a_janitor(broker, batch_size=10).tick()
    assert await scores(redis, "completed") == {}
    assert await scores(redis, "completed", "low") == {}
    assert broker.calls == 3


async def test_archived_tasks_are_none_of_its_business(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_archived(redis, message(), at=clock.now() - 1_000_000)
    await a_janitor(broker).tick()
    assert await states(redis, "t1") == ["archived"]
