from __future__ import annotations

import math

import pytest
from redis.asyncio import Redis

from asynqpy.broker.outcomes import Grant
from asynqpy.errors import BrokerUnavailableError
from asynqpy.server.lost_grants import LostGrants
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import invariants, listed, messages, seed_pending


async def take(broker: FlakyBroker, count: int = 2) -> list[Grant]:
    """Grants under which tasks were given out, and nobody knows."""
    grants = broker.grant(["default"])
    await broker.turn([], {"default": count}, grants)
    return grants


async def taken_late(lost: LostGrants, broker: FlakyBroker, redis: Redis) -> None:
    """A dequeue of two tasks that reaches Redis after the first attempt to put back what it took."""
    grants = broker.grant(["default"])
    lost.add(grants)
    await lost.put_back(broker)
    await seed_pending(redis, *messages(2))
    await broker.turn([], {"default": 2}, grants)


async def test_what_was_taken_goes_back_at_once(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await seed_pending(redis, *messages(3))
    lost = LostGrants(clock=clock)
    lost.add(await take(broker))
    assert lost.next_due() == 0
    await lost.put_back(broker)
    assert sorted(await listed(redis, "pending")) == ["t0", "t1", "t2"]
    assert await invariants(redis) == []
    assert "put back 2 tasks" in caplog.text


async def test_dequeue_that_reaches_redis_later_is_put_back_then(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    lost = LostGrants(clock=clock)
    await taken_late(lost, broker, redis)
    clock.advance(lost.next_due())
    await lost.put_back(broker)
    assert sorted(await listed(redis, "pending")) == ["t0", "t1"]


async def test_the_last_attempt_before_a_stop_does_not_wait_to_be_due(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    lost = LostGrants(clock=clock)
    await taken_late(lost, broker, redis)
    await lost.put_back(broker)
    assert len(await listed(redis, "active")) == 2
    await lost.put_back(broker, everything=True)
    assert sorted(await listed(redis, "pending")) == ["t0", "t1"]


async def test_attempts_get_rarer_and_end_with_the_lease(
    broker: FlakyBroker, clock: FakeClock
) -> None:
    lost, pauses = LostGrants(clock=clock), []
    lost.add(broker.grant(["default"]))
    while len(lost):
        pauses.append(lost.next_due())
        clock.advance(lost.next_due())
        await lost.put_back(broker)
    assert pauses == [0, 1, 2, 4, 8]
    assert lost.next_due() == math.inf


async def test_while_redis_is_away_they_stay_due(broker: FlakyBroker, clock: FakeClock) -> None:
    lost = LostGrants(clock=clock)
    lost.add(broker.grant(["default"]))
    broker.down()
    with pytest.raises(BrokerUnavailableError):
        await lost.put_back(broker)
    assert (len(lost), lost.next_due()) == (1, 0)


async def test_nothing_is_sent_while_nothing_is_due(broker: FlakyBroker, clock: FakeClock) -> None:
    lost = LostGrants(clock=clock)
    await lost.put_back(broker)
    lost.add(broker.grant(["default"]))
    await lost.put_back(broker)
    calls = broker.calls
    await lost.put_back(broker)
    assert broker.calls == calls
