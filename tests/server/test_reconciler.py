from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from asynqpy.server import reconciler as module
from asynqpy.server.reconciler import Reconciler
from tests.damage import (
    active_task_without_a_lease,
    aggregation_set_without_an_entry,
    group_that_is_not_listed,
    listed_group_without_members,
    pending_task_in_no_list,
    seed_healthy,
)
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
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

TURN = "asynqpy:{default}:reconciler"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0)


def a_reconciler(broker: FlakyBroker, *, first_search: float = 1e9) -> Reconciler:
    broker.owner = "host:1:uuid"
    return Reconciler(broker=broker, queues=["default", "low"], first_search=first_search)


async def test_glance_heals_what_stands_in_the_way_of_tasks(
    broker: FlakyBroker, redis: Redis
) -> None:
    await seed_healthy(redis)
    healthy = await dump(redis, "*:t:*")
    await active_task_without_a_lease(redis)
    await listed_group_without_members(redis)
    await a_reconciler(broker).tick()
    assert await invariants(redis) == []
    assert await listed(redis, "pending") == ["bad", "p", "locked", "p2"]
    left = await dump(redis, "*:t:*")
    assert {name: left[name] for name in healthy} == healthy


async def test_healthy_queues_are_left_alone(
    broker: FlakyBroker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await seed_healthy(redis)
    before = await dump(redis)
    await a_reconciler(broker, first_search=0).tick()
    assert await dump(redis) == before | {TURN: b"host:1:uuid"} | {
        "asynqpy:{low}:reconciler": b"host:1:uuid"
    }
    assert caplog.records == []


@pytest.mark.parametrize(
    "inflict", [pending_task_in_no_list, aggregation_set_without_an_entry, group_that_is_not_listed]
)
async def test_search_heals_what_a_glance_does_not_see(
    broker: FlakyBroker, redis: Redis, inflict: object
) -> None:
    assert callable(inflict)
    await inflict(redis)
    await a_reconciler(broker).tick()
    assert await invariants(redis) != []
    await a_reconciler(broker, first_search=0).tick()
    assert await invariants(redis) == []


async def test_one_server_searches_a_queue_and_the_others_wait_their_turn(
    broker: FlakyBroker, redis: Redis
) -> None:
    await a_reconciler(broker, first_search=0).tick()
    assert await ask(redis, "GET", TURN) == b"host:1:uuid"
    assert 800 < await ask(redis, "TTL", TURN) <= 900
    await pending_task_in_no_list(redis)
    await a_reconciler(broker, first_search=0).tick()
    assert await invariants(redis) != []
    await ask(redis, "DEL", TURN)
    await a_reconciler(broker, first_search=0).tick()
    assert await invariants(redis) == []


async def test_every_healing_is_a_warning_that_names_the_task(
    broker: FlakyBroker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await active_task_without_a_lease(redis)
    await a_reconciler(broker).tick()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "healed I3 default: active task without a lease: bad (state active, in active)"
        " -> put in pending"
    )
    fields = vars(record)
    assert (fields["queue"], fields["subject"]) == ("default", "bad")
    assert (fields["problem"], fields["invariant"]) == ("no_lease", "I3")


async def test_pending_that_is_too_long_is_not_remembered(
    broker: FlakyBroker,
    redis: Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 2)
    await seed_pending(redis, *messages(3))
    await pending_task_in_no_list(redis)
    await ask(redis, "DEL", task_key("default", "t1"))
    with caplog.at_level(logging.INFO, "asynqpy.server"):
        await a_reconciler(broker, first_search=0).tick()
    assert await listed(redis, "pending") == ["t0", "t2"]
    assert await states(redis, "bad") == ["pending"]
    assert "queue default has more than 2 pending tasks" in caplog.records[-1].message


async def test_crash_counter_of_a_task_that_is_put_back_stays(
    broker: FlakyBroker, redis: Redis
) -> None:
    await active_task_without_a_lease(redis)
    await ask(redis, "HSET", task_key("default", "bad"), "crashes", "1", "owner", "host:2:x")
    await a_reconciler(broker).tick()
    fields = await ask(redis, "HMGET", task_key("default", "bad"), "crashes", "owner", "state")
    assert fields == [b"1", b"host:2:x", b"pending"]


async def test_stop_ends_a_search_between_two_steps(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHORTEST_PAUSE", 60.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 60.0)
    await seed_pending(redis, message())
    reconciler = a_reconciler(broker)
    reconciler.start()
    reconciler.wake()
    await eventually(lambda: broker.calls)
    async with asyncio.timeout(5):
        await reconciler.stop()
    assert broker.calls < 5


async def test_servers_that_start_together_drift_apart(broker: FlakyBroker) -> None:
    delays = {await a_reconciler(broker).tick() for _ in range(5)}
    assert len(delays) > 1
    assert all(delay is not None and 45 <= delay <= 75 for delay in delays)


async def test_silent_clock_and_leases_obey_the_time_of_redis(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """A task in the hands of a worker is left to it; when nobody can hold it any more, it is seen to."""
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "LPUSH", key("default", "active"), "bad")
    await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30, "bad")
    reconciler = a_reconciler(broker)
    await reconciler.tick()
    assert await listed(redis, "active") == ["bad"]
    clock.advance(60)
    await reconciler.tick()
    assert await invariants(redis) == []
    assert await listed(redis, "active") == []


async def test_glance_is_left_out_where_redis_tells_that_nothing_has_changed(
    broker: FlakyBroker, redis: Redis
) -> None:
    reconciler = a_reconciler(broker)
    await broker.key_watch.open()
    listening = asyncio.create_task(broker.key_watch.run())
    calls = [broker.calls]
    for seed in ([], [message("a")], [], [message("b")], []):
        await seed_pending(redis, *seed)
        await reconciler.tick()
        calls.append(broker.calls)
    glanced = [later > earlier for earlier, later in pairwise(calls)]
    assert glanced == [False, True, False, True, False]
    listening.cancel()
    await asyncio.wait([listening])
    await broker.key_watch.close()


async def test_queue_with_something_under_way_is_glanced_at_each_time(
    broker: FlakyBroker, redis: Redis
) -> None:
    await seed_healthy(redis)
    reconciler = a_reconciler(broker)
    await broker.key_watch.open()
    listening = asyncio.create_task(broker.key_watch.run())
    for _ in range(3):
        before = broker.calls
        await reconciler.tick()
        assert broker.calls > before
    listening.cancel()
    await asyncio.wait([listening])
    await broker.key_watch.close()
