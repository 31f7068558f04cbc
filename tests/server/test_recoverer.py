from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from asynqpy.errors import LeaseExpiredError
from asynqpy.server.verdict import FailurePolicy
from asynqpy.task import ActiveTask
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    counter,
    invariants,
    key,
    listed,
    message,
    messages,
    scores,
    seed_active,
    states,
    stored_message,
    task_hash,
    task_key,
)
from tests.server.parts import a_recoverer

EXPIRED = "asynq: task lease expired"


async def test_task_whose_worker_fell_silent_is_retried_as_a_failure(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, message(retried=1), lease=clock.now() - 30.5)
    await a_recoverer(broker).tick()
    stored = await stored_message(redis, "t1")
    assert (stored.error_msg, stored.retried) == (EXPIRED, 2)
    assert stored.last_failed_at == clock.now()
    assert await scores(redis, "retry") == {"t1": clock.now() + 60}
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (1, 1)
    assert await invariants(redis) == []


async def test_task_without_attempts_left_is_archived(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, message(retry=2, retried=2), lease=clock.now() - 31)
    await a_recoverer(broker).tick()
    assert await scores(redis, "archived") == {"t1": clock.now()}
    assert (await stored_message(redis, "t1")).error_msg == EXPIRED


async def test_recovery_that_is_no_failure_burns_no_retry(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    policy = FailurePolicy(
        retry_delay=lambda retried, error, task: 5.0,
        is_failure=lambda error: not isinstance(error, LeaseExpiredError),
    )
    await seed_active(redis, message(), lease=clock.now() - 31)
    await a_recoverer(broker, policy=policy).tick()
    assert (await stored_message(redis, "t1")).retried == 0
    assert await counter(redis, "failed") == 0


async def test_leases_are_left_alone_until_thirty_seconds_after_their_end(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    recoverer = a_recoverer(broker)
    await seed_active(redis, message("live"), lease=clock.now() + 29.25)
    await seed_active(redis, message("late"), lease=clock.now() - 29)
    await recoverer.tick()
    assert await states(redis, "live", "late") == ["active", "active"]
    clock.advance(1)
    await recoverer.tick()
    assert await states(redis, "live", "late") == ["active", "retry"]


async def test_error_handler_is_told_of_what_was_recovered(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    told = []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.append((task.id, task.queue, task.retried, repr(error)))
        with pytest.raises(LeaseExpiredError):
            await task.write_result(b"too late")

    await seed_active(redis, message(), lease=clock.now() - 31)
    await a_recoverer(broker, error_handler=error_handler).tick()
    assert told == [("t1", "default", 0, f"LeaseExpiredError('{EXPIRED}')")]


async def test_lease_extended_at_the_last_moment_keeps_the_task(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    settle = broker.settle

    async def extend_then_settle(settlements: object) -> object:
        await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30.5, "t1")
        return await settle(settlements)  # type: ignore[arg-type]

    await seed_active(redis, message(), lease=clock.now() - 31)
    monkeypatch.setattr(broker, "settle", extend_then_settle)
    await a_recoverer(broker, error_handler=lambda *args: told.append(args)).tick()
    assert await states(redis, "t1") == ["active"]
    assert told == []


@pytest.mark.parametrize("apart", [0, 1], ids=["in the same second", "a second apart"])
@pytest.mark.parametrize("max_retry", [25, 0], ids=["retried", "archived"])
async def test_of_two_recoverers_one_acts(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock, apart: int, max_retry: int
) -> None:
    told: list[str] = []
    other = FlakyBroker(redis_url, FakeClock(clock.now() + apart))
    recoverers = [
        a_recoverer(each, error_handler=lambda task, error: told.append(task.id))
        for each in (broker, other)
    ]
    await seed_active(redis, *messages(20, retry=max_retry), lease=clock.now() - 31)
    await asyncio.gather(*(recoverer.tick() for recoverer in recoverers))
    await other.close()
    assert sorted(told) == sorted(f"t{n}" for n in range(20))
    assert await counter(redis, "failed") == 20
    assert len(await scores(redis, "retry" if max_retry else "archived")) == 20


async def test_more_than_a_page_is_recovered_in_one_pass(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, *messages(250), lease=clock.now() - 31)
    await a_recoverer(broker).tick()
    assert len(await scores(redis, "retry")) == 250
    assert await listed(redis, "active") == []


async def test_expired_lease_without_a_readable_task_is_set_aside(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, *messages(3), lease=clock.now() - 31)
    await ask(redis, "DEL", task_key("default", "t0"))
    await ask(redis, "HSET", task_key("default", "t1"), "msg", b"\xff\xff")
    await a_recoverer(broker).tick()
    assert await states(redis, "t0", "t1", "t2") == ["", "", "retry"]
    assert await task_hash(redis, "t1") == {}
    assert await ask(redis, "HGET", "asynqpy:{default}:quarantine:t1", "msg") == b"\xff\xff"
    assert await invariants(redis) == []


async def test_readable_tasks_behind_a_page_of_unreadable_ones_are_recovered(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    ghosts, healthy = messages(120), message("healthy")
    await seed_active(redis, *ghosts, lease=clock.now() - 60)
    await ask(redis, "DEL", *(task_key("default", ghost.id) for ghost in ghosts))
    await seed_active(redis, healthy, lease=clock.now() - 31)
    await a_recoverer(broker).tick()
    assert await states(redis, "healthy") == ["retry"]
    assert await listed(redis, "active") == []


@pytest.mark.parametrize("score", ["-inf", "-1e300"])
async def test_lease_that_ended_before_all_time_is_recovered_like_others(
    broker: FlakyBroker, redis: Redis, score: str
) -> None:
    await seed_active(redis, message(), lease=score)
    await a_recoverer(broker).tick()
    assert await states(redis, "t1") == ["retry"]


async def test_pass_in_which_nothing_can_be_settled_ends(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await seed_active(redis, *messages(3), lease=clock.now() - 31)
    await ask(redis, "CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        await a_recoverer(broker).tick()
    finally:
        await ask(redis, "CONFIG", "SET", "min-replicas-to-write", 0)
    assert await states(redis, "t0", "t1", "t2") == ["active"] * 3
    (record,) = caplog.records
    assert "could not recover tasks" in record.getMessage()
    assert "NOREPLICAS" in record.getMessage()
