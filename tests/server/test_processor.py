from __future__ import annotations

import math
import threading

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Turn
from asynqpy.errors import BrokerError, BrokerUnavailableError
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
    seed_pending,
    states,
    task_key,
)
from tests.server.gate import Gate
from tests.server.parts import a_workshop, work_off

# What is taken, and when.


async def test_pending_tasks_are_processed_oldest_first_and_leave_nothing(
    broker: FlakyBroker, redis: Redis
) -> None:
    handled = []

    async def handler(task: ActiveTask) -> None:
        handled.append((task.id, task.type, task.json()["user_id"]))

    await seed_pending(redis, *messages(3))
    await work_off(a_workshop(broker, handler))
    assert handled == [(f"t{n}", "email:welcome", 42) for n in range(3)]
    assert await counter(redis, "processed") == 3
    left = [name for name in await dump(redis) if "processed" not in name]
    assert left == ["asynq:queues"]


async def test_handler_of_a_lone_task_begins_before_redis_is_asked_anything_more(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    async def handler(task: ActiveTask) -> None:
        order.append("handler")

    shop = a_workshop(broker, handler)
    arm = shop.processor._arrivals.arm

    def noted_arm() -> bool:
        order.append("asked")
        return arm()

    monkeypatch.setattr(shop.processor._arrivals, "arm", noted_arm)
    await seed_pending(redis, message())
    await shop.processor.tick()
    assert order == ["handler", "asked"]


async def test_active_means_running(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=2)
    await seed_pending(redis, *messages(5))
    await shop.processor.tick()
    await eventually(lambda: gate.running == 2)
    assert await listed(redis, "active") == gate.started == ["t0", "t1"]
    assert await listed(redis, "pending") == ["t2", "t3", "t4"]
    assert await invariants(redis) == []
    gate.open()
    await work_off(shop)


async def test_never_more_handlers_than_permits(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    gate.open()
    shop = a_workshop(broker, gate, concurrency=3)
    await seed_pending(redis, *messages(40))
    shop.processor.start()
    await eventually(lambda: len(gate.started) == 40)
    await shop.processor.stop()
    assert gate.most == 3
    assert await counter(redis, "processed") == 40


async def test_takes_as_many_as_are_free_and_settles_in_the_same_round_trip(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=3)
    await seed_pending(redis, *messages(9))
    await shop.processor.tick()
    await eventually(lambda: gate.running == 3)
    next(iter(shop.runs)).cancel(CancelCause.REQUESTED)
    await eventually(lambda: len(shop.runs) == 2)
    before = broker.calls
    await shop.processor.tick()
    assert broker.calls == before + 1
    assert await listed(redis, "active") == ["t1", "t2", "t3"]
    assert await states(redis, "t0", "t4") == ["retry", "pending"]
    gate.open()
    await work_off(shop)


async def test_with_all_permits_taken_redis_is_left_alone_until_something_ends(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=1)
    await seed_pending(redis, *messages(2))
    await shop.processor.tick()
    before = broker.calls
    assert await shop.processor.tick() == math.inf
    assert broker.calls == before
    gate.open()
    await work_off(shop)


async def test_end_of_a_handler_wakes_the_processor(broker: FlakyBroker, redis: Redis) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=1, task_check_interval=3600)
    await seed_pending(redis, *messages(2))
    shop.processor.start()
    await eventually(lambda: gate.running == 1)
    gate.open()
    await eventually(lambda: len(gate.started) == 2)
    await shop.processor.stop()


async def test_idle_processor_asks_again_within_the_interval_and_not_in_step(
    broker: FlakyBroker,
) -> None:
    processor = a_workshop(broker, task_check_interval=2.0).processor
    answers = {await processor.tick() for _ in range(5)}
    assert len(answers) == 5
    assert all(answer is not None and 1.0 <= answer <= 2.0 for answer in answers)


async def test_idle_processor_finds_what_arrives(broker: FlakyBroker, redis: Redis) -> None:
    shop = a_workshop(broker, task_check_interval=0.01)
    shop.processor.start()
    await eventually(lambda: broker.calls >= 3)
    await seed_pending(redis, message())
    await eventually(lambda: counter(redis, "processed"))
    await shop.processor.stop()


async def test_paused_queue_is_skipped_until_it_is_resumed(
    broker: FlakyBroker, redis: Redis
) -> None:
    shop = a_workshop(broker, queues={"default": 1, "low": 1})
    await seed_pending(redis, message(), message("t2", queue="low"))
    await ask(redis, "SET", key("default", "paused"), 1)
    await work_off(shop)
    assert await states(redis, "t1") == ["pending"]
    assert await states(redis, "t2", queue="low") == [""]
    await ask(redis, "DEL", key("default", "paused"))
    await work_off(shop)
    assert await states(redis, "t1") == [""]


async def test_backed_up_queues_share_the_permits_by_priority(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    queues = {"critical": 6, "default": 3, "low": 1}
    for queue in queues:
        await seed_pending(redis, *messages(20, queue=queue))
    shop = a_workshop(broker, gate, concurrency=10, queues=queues)
    await shop.processor.tick()
    assert {q: len(await listed(redis, "active", q)) for q in queues} == queues
    gate.open()
    await work_off(shop)


# What cannot be processed.


async def test_ghost_and_undecodable_tasks_are_set_aside_and_the_others_processed(
    broker: FlakyBroker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await seed_pending(redis, *messages(3))
    await ask(redis, "DEL", task_key("default", "t0"))
    await ask(redis, "HSET", task_key("default", "t1"), "msg", b"\xff\xff")
    await work_off(a_workshop(broker))
    assert await counter(redis, "processed") == 1
    assert await invariants(redis) == []
    assert set(await ask(redis, "ZRANGE", "asynqpy:{default}:quarantine", 0, -1)) == {b"t0", b"t1"}
    assert "set task t0 of queue default aside" in caplog.text


async def test_queue_of_the_wrong_type_is_set_aside_and_the_other_queue_processed(
    broker: FlakyBroker, redis: Redis
) -> None:
    await ask(redis, "SET", key("default", "pending"), "junk")
    await seed_pending(redis, message(queue="low"))
    shop = a_workshop(broker, queues={"default": 1, "low": 1})
    await work_off(shop)
    assert await states(redis, "t1", queue="low") == [""]
    await seed_pending(redis, message())
    await work_off(shop)
    assert await states(redis, "t1") == [""]


async def test_second_pending_entry_of_a_running_task_is_dropped(
    broker: FlakyBroker, redis: Redis
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await ask(redis, "LPUSH", key("default", "pending"), "t1")
    await shop.processor.tick()
    assert gate.started == ["t1"]
    assert await listed(redis, "pending") == []
    gate.open()
    await work_off(shop)


async def test_message_without_timeout_and_deadline_gets_half_an_hour(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    deadlines = []

    async def handler(task: ActiveTask) -> None:
        deadlines.append(task.deadline.timestamp())

    await seed_pending(redis, message(timeout=0))
    await work_off(a_workshop(broker, handler))
    assert deadlines == [clock.now() + 1800]


async def test_queue_that_cannot_be_asked_is_logged_now_and_then_and_not_at_every_turn(
    broker: FlakyBroker,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def turn(*args: object) -> Turn:
        refusals = {"low": BrokerError("NOPERM"), "poor": BrokerError("NOPERM")}
        return Turn(settled=[], deliveries=[], backlog={"default": 0}, errors=refusals)

    shop = a_workshop(broker, queues={"default": 1, "low": 1, "poor": 1})
    monkeypatch.setattr(broker, "turn", turn)
    for _ in range(4):
        await shop.processor.tick()
        clock.advance(3)
    complaints = [
        "cannot take tasks of queue low: NOPERM",
        "cannot take tasks of queue poor: NOPERM",
    ]
    assert [record.getMessage() for record in caplog.records] == complaints
    await shop.processor.tick()
    assert [record.getMessage() for record in caplog.records] == complaints * 2


async def test_of_a_redis_that_is_away_no_queue_complains(
    broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def turn(*args: object) -> Turn:
        errors = {"low": BrokerUnavailableError("away")}
        return Turn(settled=[], deliveries=[], backlog={"default": 0}, errors=errors)

    shop = a_workshop(broker, queues={"default": 1, "low": 1})
    monkeypatch.setattr(broker, "turn", turn)
    await shop.processor.tick()
    assert caplog.messages == []


# Permits and threads.


async def test_thread_that_outlives_its_task_keeps_its_permit(
    broker: FlakyBroker, redis: Redis
) -> None:
    go_on = threading.Event()
    handled: list[str] = []

    def handler(task: ActiveTask) -> None:
        handled.append(task.id)
        go_on.wait(10)

    shop = a_workshop(broker, handler, concurrency=1)
    await seed_pending(redis, *messages(2))
    shop.processor.start()
    await eventually(lambda: handled == ["t0"])
    shop.runs.cancel("t0", CancelCause.REQUESTED)
    await eventually(lambda: states_are(redis, "retry", "pending"))
    assert handled == ["t0"]
    go_on.set()
    await eventually(lambda: handled == ["t0", "t1"])
    await eventually(lambda: states_are(redis, "retry", ""))
    await shop.processor.stop()


async def states_are(redis: Redis, *expected: str) -> bool:
    return await states(redis, "t0", "t1") == list(expected)
