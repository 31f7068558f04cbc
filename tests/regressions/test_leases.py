"""B6, B7, B12: who may touch a task that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask, CancelCause
from asynqpy.broker.broker import Broker, Turn
from asynqpy.broker.messages import ServerInfo
from asynqpy.broker.outcomes import (
    Delivery,
    Grant,
    Outcome,
    Requeue,
    Settlement,
)
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    counter,
    dump,
    invariants,
    listed,
    message,
    messages,
    seed_pending,
)
from tests.regressions.histories import OUTCOMES, closing, lease_to_go, name_of
from tests.server.parts import a_heartbeater, a_workshop, work_off


async def take(broker: Broker) -> Delivery:
    (delivery,) = (await broker.dequeue({"default": 1})).deliveries
    return delivery


async def given_away(
    broker: Broker, other: Broker, redis: Redis, clock: FakeClock, heir: str
) -> Delivery:
    """A task that a worker took, and that another one runs by now: one of ours, or of Go's."""
    await seed_pending(redis, message())
    stalled = await take(broker)
    back = Settlement(stalled.message, stalled.lease.fence, Requeue(), clock.now())
    assert await other.settle([back]) == [True]
    await take(other)
    if heir == "go":
        await lease_to_go(redis, clock)
    return stalled


# B6: no fencing.


@pytest.mark.parametrize("heir", ["ours", "go"])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=name_of)
async def test_b06_a_stalled_worker_settles_nothing_that_another_runs(
    broker: FlakyBroker,
    other_broker: Broker,
    redis: Redis,
    clock: FakeClock,
    heir: str,
    outcome: Outcome,
) -> None:
    """asynq settles by the task's id alone: it would end, or give away once more, the run of the other."""
    stalled = await given_away(broker, other_broker, redis, clock, heir)
    before = await dump(redis)
    late = Settlement(stalled.message, stalled.lease.fence, outcome, clock.now())
    assert await broker.settle([late]) == [False]
    assert await broker.write_result(stalled.lease, b"stale") is False
    assert await dump(redis) == before


# B7: a lost lease that nobody notices.


@pytest.mark.parametrize("heir", ["ours", "go"])
async def test_b07_a_worker_that_lost_its_lease_is_told_and_its_handler_cancelled(
    broker: FlakyBroker, other_broker: Broker, redis: Redis, clock: FakeClock, heir: str
) -> None:
    """asynq does not read the answer: it believes the lease extended, and runs on beside the other."""
    causes: list[CancelCause | None] = []

    async def handler(task: ActiveTask) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            causes.append(task.cancel_cause)

    shop = a_workshop(broker, handler)
    await seed_pending(redis, message())
    await shop.processor.tick()
    (run,) = shop.runs
    await eventually(lambda: run.begun)
    back = Settlement(run.message, run.lease.fence, Requeue(), clock.now())
    assert await other_broker.settle([back]) == [True]
    await take(other_broker)
    if heir == "go":
        await lease_to_go(redis, clock)
    before = await dump(redis, "*:lease")
    await a_heartbeater(broker, clock, shop.runs).tick()
    await eventually(lambda: not len(shop.runs))
    assert causes == [CancelCause.LEASE_LOST]
    await work_off(shop)
    assert await dump(redis, "*:lease") == before
    assert await counter(redis, "processed") == 0


# B12: heartbeats, starts and ends in one queue.


class Mute(FlakyBroker):
    """A heartbeat that Redis does not answer."""

    async def write_server_state(self, server: ServerInfo, workers: object, ttl: int) -> None:
        await asyncio.Event().wait()


async def test_b12_a_heartbeat_that_hangs_holds_up_no_task(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """asynq's heartbeat is told of each start and end by the workers, which wait while it waits for Redis."""
    worked: list[str] = []
    shop = a_workshop(broker, lambda task: worked.append(task.id))
    await seed_pending(redis, *messages(50))
    async with closing(Mute(redis_url, clock)) as mute:
        beat = asyncio.create_task(a_heartbeater(mute, clock, shop.runs).tick())
        await asyncio.wait_for(work_off(shop), 10)
        assert not beat.done()
        beat.cancel()
        await asyncio.gather(beat, return_exceptions=True)
    assert len(worked) == 50
    assert await counter(redis, "processed") == 50


class Late(FlakyBroker):
    """Answers come after the leases that they bring are over."""

    async def turn(
        self,
        settlements: Sequence[Settlement],
        wanted: Mapping[str, int],
        grants: Sequence[Grant] | None = None,
    ) -> Turn:
        turn = await super().turn(settlements, wanted, grants)
        assert isinstance(self.clock, FakeClock)
        self.clock.advance(31)
        return turn


async def test_b12_a_task_whose_lease_is_over_when_it_arrives_is_not_begun(
    redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """asynq begins it, although others may take it any moment."""

    worked: list[str] = []
    await seed_pending(redis, message())
    async with closing(Late(redis_url, clock)) as late:
        shop = a_workshop(late, lambda task: worked.append(task.id))
        await shop.processor.tick()
        assert not len(shop.runs)
        shop.processor.stop_fetching()
        await shop.processor.tick()
    assert worked == []
    assert await listed(redis, "pending") == ["t1"]
    assert await invariants(redis) == []
