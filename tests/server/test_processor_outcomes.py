"""What becomes of outcomes that do not get through at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from asynqpy.errors import BrokerError, BrokerUnavailableError, LeaseExpiredError
from asynqpy.task import ActiveTask
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    counter,
    dump,
    key,
    message,
    messages,
    scores,
    seed_pending,
    states,
    task_hash,
)
from tests.server.gate import Gate
from tests.server.parts import a_workshop, work_off

Told = list[tuple[str, str]]


@asynccontextmanager
async def refused_writes(redis: Redis) -> AsyncIterator[None]:
    """Redis refuses our scripts."""
    await ask(redis, "ACL", "SETUSER", "default", "-lrem", "-rpop")
    try:
        yield
    finally:
        await ask(redis, "ACL", "SETUSER", "default", "+@all")


async def give_away(redis: Redis, clock: FakeClock, task_id: str = "t1") -> None:
    """As if a recoverer had put the task back and a Go worker had taken it."""
    await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30, task_id)


async def test_outcomes_wait_while_redis_is_away_and_are_written_once_it_is_back(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, *messages(3))
    await shop.processor.tick()
    broker.down()
    gate.open()
    await eventually(lambda: not len(shop.runs))
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    assert len(shop.settler) == 3
    broker.up()
    clock.advance(1)
    await work_off(shop)
    assert await states(redis, "t0", "t1", "t2") == [""] * 3
    assert await counter(redis, "processed") == 3


async def test_processor_that_runs_survives_redis_being_away(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.service._FIRST_BACK_OFF", 0.01)
    shop = a_workshop(broker, task_check_interval=0.01)
    broker.down()
    shop.processor.start()
    await eventually(lambda: broker.calls >= 3)
    await seed_pending(redis, message())
    broker.up()
    await eventually(lambda: counter(redis, "processed"))
    await shop.processor.stop()


async def test_outcome_whose_answer_was_lost_is_counted_once_and_is_no_loss(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    told: Told = []
    shop = a_workshop(broker, error_handler=lambda task, error: told.append((task.id, repr(error))))
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    broker.lose_answers()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    broker.up()
    clock.advance(1)
    await work_off(shop)
    assert await counter(redis, "processed") == 1
    assert told == []


async def test_due_time_of_a_retry_is_told_once_it_is_written(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    async def fails(task: ActiveTask) -> None:
        raise ValueError("no")

    due: list[float] = []
    shop = a_workshop(broker, fails, retry_due=due.append)
    await seed_pending(redis, *messages(3))
    await work_off(shop)
    assert due == [clock.now() + 60]


async def test_fault_below_that_nobody_foresaw_loses_no_outcome(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    with monkeypatch.context() as patch:
        patch.setattr(broker, "turn", None)
        with pytest.raises(TypeError):
            await shop.processor.tick()
    clock.advance(1)
    await work_off(shop)
    assert await counter(redis, "processed") == 1


async def test_settlement_that_redis_refuses_is_offered_again(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    async with refused_writes(redis):
        await shop.processor.tick()
    assert await states(redis, "t1") == ["active"]
    clock.advance(1)
    await work_off(shop)
    assert await states(redis, "t1") == [""]


async def test_refusal_to_hand_out_tasks_backs_the_processor_off(
    broker: FlakyBroker, redis: Redis
) -> None:
    shop = a_workshop(broker)
    await seed_pending(redis, message())
    async with refused_writes(redis):
        with pytest.raises(BrokerError, match=r"can't run|no permissions"):
            await shop.processor.tick()
    await work_off(shop)
    assert await states(redis, "t1") == [""]


async def test_settlement_blocked_by_a_key_of_the_wrong_type_goes_through_the_next_time(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    async def fails(task: ActiveTask) -> None:
        raise ValueError("no")

    await ask(redis, "SET", key("default", "retry"), "junk")
    shop = a_workshop(broker, fails)
    await seed_pending(redis, message())
    await work_off(shop)
    assert len(shop.settler) == 1
    clock.advance(1)
    await work_off(shop)
    assert list(await scores(redis, "retry")) == ["t1"]
    assert await ask(redis, "GET", "asynqpy:{default}:quarantine:key:retry") == b"junk"


async def test_task_that_was_given_away_is_left_alone_and_the_error_handler_is_told(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    told: Told = []
    gate = Gate()
    shop = a_workshop(
        broker, gate, error_handler=lambda task, error: told.append((task.id, repr(error)))
    )
    await seed_pending(redis, message())
    await shop.processor.tick()
    await give_away(redis, clock)
    before = await dump(redis)
    gate.open()
    await eventually(lambda: not len(shop.runs))
    await shop.processor.tick()
    await eventually(lambda: told == [("t1", "LeaseExpiredError('asynq: task lease expired')")])
    assert await dump(redis) == before


async def test_loss_found_by_the_last_write_is_told_too(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    told: Told = []
    shop = a_workshop(broker, error_handler=lambda task, error: told.append((task.id, repr(error))))
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    await give_away(redis, clock)
    await shop.processor.finish()
    assert told == [("t1", "LeaseExpiredError('asynq: task lease expired')")]


async def test_result_is_stored_with_the_task(broker: FlakyBroker, redis: Redis) -> None:
    async def handler(task: ActiveTask) -> None:
        assert await task.write_result({"sent": True}) == len(b'{"sent":true}')

    await seed_pending(redis, message(retention=60))
    await work_off(a_workshop(broker, handler))
    record = await task_hash(redis, "t1")
    assert (record["state"], record["result"]) == (b"completed", b'{"sent":true}')


async def test_result_of_a_task_that_was_given_away_is_refused(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    refused = []

    async def handler(task: ActiveTask) -> None:
        await give_away(redis, clock)
        with pytest.raises(LeaseExpiredError) as caught:
            await task.write_result(b"late")
        refused.append(caught.value)

    await seed_pending(redis, message())
    await work_off(a_workshop(broker, handler))
    assert len(refused) == 1
    assert "result" not in await task_hash(redis, "t1")
