"""A lease is held from before Redis gives it out until the outcome is written, however long the loop is blocked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from asynqpy.errors import BrokerUnavailableError, LeaseExpiredError
from asynqpy.server.heartbeater import Heartbeater
from asynqpy.task import ActiveTask, CancelCause
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    counter,
    dump,
    invariants,
    key,
    listed,
    message,
    messages,
    scores,
    seed_pending,
    states,
    stored_message,
    task_hash,
)
from tests.server.gate import Gate
from tests.server.parts import Workshop, a_heartbeater, a_recoverer, a_workshop, work_off


def a_heart(shop: Workshop, broker: FlakyBroker) -> Heartbeater:
    return a_heartbeater(broker, broker.clock, shop.runs)


async def run_one(shop: Workshop, redis: Redis) -> None:
    """A task whose handler has ended, with its outcome still to be written."""
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))


async def test_lease_is_held_until_the_outcome_is_written(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    shop = a_workshop(broker)
    await run_one(shop, redis)
    for _ in range(3):
        clock.advance(20)
        await a_heart(shop, broker).tick()
    assert (await scores(redis, "lease"))["t1"] > clock.now() + 30
    await a_recoverer(broker).tick()
    await work_off(shop)
    assert await states(redis, "t1") == [""]
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (1, 0)
    assert shop.runs.held() == {}
    assert shop.runs.granted() == []


async def test_lease_of_an_outcome_that_redis_refuses_is_let_lapse(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    shop = a_workshop(broker)
    await run_one(shop, redis)
    await ask(redis, "ACL", "SETUSER", "default", "-lrem", "-rpop")
    try:
        await shop.processor.tick()
    finally:
        await ask(redis, "ACL", "SETUSER", "default", "+@all")
    await assert_lapses(shop, broker, redis, clock)


async def test_lease_of_an_outcome_that_redis_did_not_answer_is_kept_until_it_does(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """As long as Redis is away nobody else can take the task; when it is back the outcome is written."""
    shop = a_workshop(broker)
    await run_one(shop, redis)
    broker.down()
    for _ in range(40):
        with pytest.raises(BrokerUnavailableError):
            await shop.processor.tick()
        clock.advance(1)
    broker.up()
    await a_heart(shop, broker).tick()
    assert await scores(redis, "lease") == {"t1": pytest.approx(clock.now() + 30, abs=1)}
    await shop.processor.tick()
    assert await dump(redis, "asynq:{default}:t:*") == {}
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (1, 0)
    assert (shop.runs.held(), shop.runs.granted(), len(shop.settler)) == ({}, [], 0)


async def test_outcome_that_comes_back_too_late_is_left_to_who_has_the_task_by_then(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    shop = a_workshop(broker)
    await run_one(shop, redis)
    broker.down()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    broker.up()
    await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30, "t1")
    before = await dump(redis)
    clock.advance(1)
    await shop.processor.tick()
    assert await dump(redis) == before
    assert (shop.runs.held(), len(shop.settler)) == ({}, 0)


async def test_handler_whose_lease_ran_out_in_an_outage_is_cancelled_and_its_task_handed_back(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """Nobody else could take it; it burns no retry and is no crash."""
    gate, told = Gate(), []
    shop = a_workshop(broker, gate, error_handler=lambda task, error: told.append(type(error)))
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: gate.running)
    broker.down()
    clock.advance(31)
    with pytest.raises(BrokerUnavailableError):
        await a_heart(shop, broker).tick()
    await eventually(lambda: not len(shop.runs))
    assert told == [LeaseExpiredError]
    broker.up()
    shop.processor.stop_fetching()
    await shop.processor.tick()
    assert await listed(redis, "pending") == ["t1"]
    assert (await stored_message(redis, "t1")).retried == 0
    assert "crashes" not in await task_hash(redis, "t1")
    assert await invariants(redis) == []


async def test_tasks_of_a_dequeue_whose_answer_was_lost_go_back_at_once(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, *messages(3))
    broker.lose_answers()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    assert len(await listed(redis, "active")) == 3
    broker.up()
    await shop.processor.tick()
    await eventually(lambda: gate.running == 3)
    assert (await stored_message(redis, "t0")).retried == 0
    gate.open()
    await eventually(lambda: not len(shop.runs))


async def test_lost_dequeue_is_put_back_before_the_server_ends(
    broker: FlakyBroker, redis: Redis
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, *messages(3))
    broker.lose_answers()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    broker.up()
    await shop.processor.finish()
    assert sorted(await listed(redis, "pending")) == ["t0", "t1", "t2"]
    assert await invariants(redis) == []


async def test_nothing_is_taken_by_a_clock_that_redis_has_not_confirmed(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seed_pending(redis, message())
    monkeypatch.setattr(clock, "anchor_age", lambda: float("inf"))
    monkeypatch.setattr(broker, "sync_clock", broker.ping)
    broker.down()
    with pytest.raises(BrokerUnavailableError):
        await a_workshop(broker).processor.tick()
    assert broker.calls == 1
    assert await listed(redis, "pending") == ["t1"]


async def assert_lapses(
    shop: Workshop, broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    before = await scores(redis, "lease")
    assert list(before) == ["t1"]
    clock.advance(20)
    await a_heart(shop, broker).tick()
    assert await scores(redis, "lease") == before
    assert len(shop.settler) == 1


async def test_lost_lease_is_let_go_with_its_run(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: gate.running)
    shop.runs.cancel("t1", CancelCause.LEASE_LOST)
    await eventually(lambda: not len(shop.runs))
    assert shop.runs.held() == {}


# Answers that are read late.


def read_late(
    broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], Awaitable[None]]
) -> None:
    """The next answers have arrived, but something happens before they are read: the loop is blocked."""
    send = broker._runner._send

    async def send_and_wait(*args: object) -> list[object]:
        answers = await send(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(broker._runner, "_send", send)
        await meanwhile()
        return answers

    monkeypatch.setattr(broker._runner, "_send", send_and_wait)


async def test_delivery_that_is_read_late_runs_when_its_lease_was_kept_meanwhile(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, *messages(3))
    await broker.dequeue({"none": 1})  # Redis knows the script

    async def is_blocked() -> None:
        for _ in range(5):
            clock.advance(20)
            await a_heart(shop, broker).tick()

    read_late(broker, monkeypatch, is_blocked)
    await shop.processor.tick()
    await eventually(lambda: gate.running == 3)
    assert {run.lease.expires_at for run in shop.runs} == {clock.now() + 30}
    gate.open()
    await eventually(lambda: not len(shop.runs))
    await work_off(shop)
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (3, 0)


async def test_delivery_whose_lease_has_expired_when_it_is_read_is_handed_back(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, told = Gate(), []
    shop = a_workshop(broker, gate, error_handler=lambda *args: told.append(args))
    await seed_pending(redis, *messages(3))
    await broker.dequeue({"none": 1})

    async def is_blocked() -> None:
        clock.advance(30)

    read_late(broker, monkeypatch, is_blocked)
    await shop.processor.tick()
    assert (len(shop.runs), len(shop.settler), shop.runs.held()) == (0, 3, {})
    shop.processor.stop_fetching()
    await shop.processor.tick()
    assert await listed(redis, "pending") == ["t0", "t1", "t2"]
    assert (await stored_message(redis, "t0")).retried == 0
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (0, 0)
    assert await invariants(redis) == []
    assert (gate.started, told) == ([], [])


async def test_delivery_that_is_read_when_another_worker_has_it_is_left_to_that(
    broker: FlakyBroker,
    redis: Redis,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, told = Gate(), []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.append(task.id)

    shop = a_workshop(broker, gate, error_handler=error_handler)
    await seed_pending(redis, message())
    await broker.dequeue({"none": 1})

    async def is_blocked() -> None:
        clock.advance(61)
        recoverer = a_recoverer(broker, error_handler=error_handler)
        for _ in range(6):
            await recoverer.tick()
            clock.advance(1)
        await eventually(lambda: told)
        # A Go worker takes it.
        await ask(redis, "DEL", key("default", "pending"))
        await ask(redis, "LPUSH", key("default", "active"), "t1")
        await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30, "t1")
        await ask(redis, "HSET", "asynq:{default}:t:t1", "state", "active")

    read_late(broker, monkeypatch, is_blocked)
    await shop.processor.tick()
    before = await dump(redis)
    caplog.clear()
    await shop.processor.tick()
    await shop.processor.finish()
    assert await dump(redis) == before
    assert (gate.started, told, len(shop.settler)) == ([], ["t1"], 0)
    assert caplog.records == []


async def test_server_claims_what_runs_and_what_is_still_to_be_written(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: gate.running)
    assert shop.processor.claims("default", b"t1")
    assert not shop.processor.claims("low", b"t1")
    gate.open()
    await eventually(lambda: not len(shop.runs))
    assert shop.processor.claims("default", b"t1")
    await work_off(shop)
    assert not shop.processor.claims("default", b"t1")


async def test_result_waits_for_redis_and_is_no_failure_of_the_task(
    broker: FlakyBroker, redis: Redis
) -> None:
    begun = asyncio.Event()

    async def handler(task: ActiveTask) -> None:
        broker.down()
        begun.set()
        await task.write_result(b"42")

    shop = a_workshop(broker, handler)
    await seed_pending(redis, message(retention=60))
    await shop.processor.tick()
    await begun.wait()
    calls = broker.calls
    await eventually(lambda: broker.calls > calls + 1)
    broker.up()
    await eventually(lambda: not len(shop.runs))
    await work_off(shop)
    assert await states(redis, "t1") == ["completed"]
    assert (await task_hash(redis, "t1"))["result"] == b"42"
