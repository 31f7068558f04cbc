from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy.server.processor import Processor
from asynqpy.task import ActiveTask
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.lines import is_line
from tests.redis_state import (
    ask,
    counter,
    invariants,
    key,
    listed,
    message,
    messages,
    seed_pending,
    states,
    stored_message,
)
from tests.server.gate import Gate
from tests.server.parts import a_workshop
from tests.server.servers import left_behind
from tests.server.test_lost_grants import taken_late


async def test_nothing_is_taken_after_stop_fetching_and_what_runs_is_settled(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=1)
    await seed_pending(redis, *messages(2))
    await shop.processor.tick()
    shop.processor.stop_fetching()
    gate.open()
    await eventually(lambda: not len(shop.runs))
    await shop.processor.tick()
    assert await states(redis, "t0", "t1") == ["", "pending"]


async def test_deliveries_that_arrive_after_stop_fetching_are_handed_back_in_order(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, *messages(3))
    stop_during_a_turn(shop.processor, broker, monkeypatch)
    await shop.processor.tick()
    assert len(shop.runs) == 0
    await shop.processor.tick()
    assert await listed(redis, "pending") == ["t0", "t1", "t2"]
    assert (await stored_message(redis, "t0")).retried == 0
    assert await invariants(redis) == []


def stop_during_a_turn(
    processor: Processor, broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all = broker._runner.run_all

    async def stop_then_run(*args: object) -> list[object]:
        processor.stop_fetching()
        return await run_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(broker._runner, "run_all", stop_then_run)


async def test_drain_waits_for_handlers_to_end(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    shop.processor.start()
    await eventually(lambda: gate.running == 1)
    draining = asyncio.create_task(shop.processor.drain(60))
    await asyncio.sleep(0)
    assert not draining.done()
    gate.open()
    await draining
    await shop.processor.stop()
    assert await counter(redis, "processed") == 1


async def test_drain_hands_back_what_does_not_end_in_time(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, *messages(3))
    shop.processor.start()
    await eventually(lambda: gate.running == 3)
    await shop.processor.drain(0)
    await shop.processor.stop()
    assert gate.running == 0
    assert sorted(await listed(redis, "pending")) == ["t0", "t1", "t2"]
    assert (await stored_message(redis, "t0")).retried == 0
    assert await counter(redis, "processed") == 0
    assert await invariants(redis) == []


async def test_drain_hands_back_the_task_of_a_handler_that_ignores_its_cancel(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.processor._GRACE", 0.01)
    go_on = asyncio.Event()

    async def stubborn(task: ActiveTask) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    shop = a_workshop(broker, stubborn)
    await seed_pending(redis, message())
    shop.processor.start()
    await eventually(lambda: len(shop.runs) == 1)
    (run,) = shop.runs
    await shop.processor.drain(0)
    await shop.processor.stop()
    assert await listed(redis, "pending") == ["t1"]
    go_on.set()
    assert run.job is not None
    await run.job
    assert len(shop.settler) == 0


async def test_abort_ends_the_wait_of_a_drain(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    shop.processor.start()
    await eventually(lambda: gate.running == 1)
    draining = asyncio.create_task(shop.processor.drain(3600))
    await asyncio.sleep(0)
    shop.processor.abort()
    async with asyncio.timeout(5):
        await draining
        await shop.processor.stop()
    assert await listed(redis, "pending") == ["t1"]


async def test_outcome_on_its_way_when_the_stop_loses_patience_is_offered_once_more(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    run_all, asked = broker._runner.run_all, asyncio.Event()

    async def hangs_once(*args: object) -> list[object]:
        if not asked.is_set():
            asked.set()
            await asyncio.Event().wait()
        return await run_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(broker._runner, "run_all", hangs_once)
    shop.processor.start()
    await asked.wait()
    await shop.processor.stop(0.01)
    assert await states(redis, "t1") == [""]
    assert await counter(redis, "processed") == 1


async def test_report_of_a_lost_lease_that_hangs_is_not_left_behind_by_an_impatient_stop(
    broker: FlakyBroker, redis: Redis
) -> None:
    told = asyncio.Event()

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.set()
        await asyncio.Event().wait()

    shop = a_workshop(broker, error_handler=error_handler)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    await ask(redis, "ZREM", key("default", "lease"), "t1")
    shop.processor.start()
    await told.wait()
    await shop.processor.stop(0.01)
    assert [name for name in left_behind() if not is_line(name)] == []


async def test_last_outcomes_are_offered_once_more_and_then_left_to_recovery(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.processor._LAST_FLUSH", 0.01)
    shop = a_workshop(broker)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    broker.down()
    before = broker.calls
    await shop.processor.finish()
    assert broker.calls == before + 2
    assert await states(redis, "t1") == ["active"]
    broker.up()
    await shop.processor.finish()
    assert await states(redis, "t1") == [""]


async def test_what_a_lost_dequeue_took_late_goes_back_at_the_stop(
    broker: FlakyBroker, redis: Redis
) -> None:
    """The next attempt to put it back would be due in a second, when nobody is there any more."""
    shop = a_workshop(broker)
    await taken_late(shop.processor._lost_grants, broker, redis)
    shop.processor.stop_fetching()
    shop.processor.start()
    await shop.processor.stop()
    assert sorted(await listed(redis, "pending")) == ["t0", "t1"]
    assert await invariants(redis) == []
