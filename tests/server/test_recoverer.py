from __future__ import annotations

import asyncio
import logging
import re

import pytest
from redis.asyncio import Redis

from asynqpy.errors import LeaseExpiredError, WorkerCrashedError
from asynqpy.server.recoverer import Recoverer
from asynqpy.task import ActiveTask
from tests import single
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
    seed_active,
    seed_pending,
    states,
    stored_message,
    task_hash,
    task_key,
)
from tests.server.parts import a_recoverer

OWNER = "host1:1234:abc"


async def watch(recoverer: Recoverer, clock: FakeClock, seconds: int = 5) -> None:
    """Look once a second, so long."""
    for _ in range(seconds):
        await recoverer.tick()
        clock.advance(1)
    await recoverer.tick()


async def show(redis: Redis, owner: str = OWNER) -> None:
    """A heartbeat."""
    await ask(redis, "SET", f"asynq:servers:{{{owner}}}", "ServerInfo")


async def take(redis: Redis, redis_url: str, clock: FakeClock, *ids: str) -> None:
    """A server dequeues these tasks, and is not heard of again."""
    broker = FlakyBroker(redis_url, clock, owner=OWNER)
    await seed_pending(redis, *(message(task_id) for task_id in ids))
    await broker.dequeue({"default": len(ids)})
    await broker.close()


async def test_task_of_a_dead_server_is_back_within_fifteen_seconds(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    recoverer, started = a_recoverer(broker), clock.now()
    await take(redis, redis_url, clock, "t1")
    await show(redis)
    while await states(redis, "t1") == ["active"]:
        if clock.now() - started >= 10:  # the TTL of its last heartbeat
            await ask(redis, "DEL", f"asynq:servers:{{{OWNER}}}")
        clock.advance(await recoverer.tick() or 2)
    assert await states(redis, "t1") == ["pending"]
    assert clock.now() - started <= 15


async def test_crash_is_no_failure_of_the_task(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    await take(redis, redis_url, clock, "t1")
    before = await stored_message(redis, "t1")
    clock.advance(12)
    await watch(a_recoverer(broker), clock)
    assert await listed(redis, "pending") == ["t1"]
    assert await stored_message(redis, "t1") == before
    assert (await task_hash(redis, "t1"))["crashes"] == b"1"
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (0, 0)
    assert await invariants(redis) == []


async def test_tasks_of_a_living_server_are_never_touched(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    await take(redis, redis_url, clock, "t1")
    await show(redis)
    before = await dump(redis)
    await watch(a_recoverer(broker), clock, seconds=38)
    assert await dump(redis) == before


async def test_server_that_cannot_show_itself_keeps_the_leases_that_it_extends(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    await take(redis, redis_url, clock, "t1")
    recoverer = a_recoverer(broker)
    for _ in range(6):
        await watch(recoverer, clock, seconds=9)
        await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30.5, "t1")
    assert await states(redis, "t1") == ["active"]


async def test_after_an_outage_of_redis_servers_get_the_time_to_come_back(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """All heartbeats have expired, and all leases have been silent, as long as Redis was away."""
    await take(redis, redis_url, clock, "t1")
    recoverer = a_recoverer(broker)
    await recoverer.tick()
    broker.down()
    with pytest.raises(Exception, match="down"):
        await recoverer.tick()
    clock.advance(60)
    broker.up()
    await watch(recoverer, clock, seconds=3)
    assert await states(redis, "t1") == ["active"]
    await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30.5, "t1")
    await show(redis)
    await watch(recoverer, clock, seconds=15)
    assert await states(redis, "t1") == ["active"]


async def test_second_crash_brings_the_task_back_by_itself_a_little_later(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """Those that ran beside a poison pill twice are not beside it the third time."""
    tasks = messages(20)
    await seed_active(redis, *tasks, lease=clock.now() - 31)
    for task in tasks:
        await ask(redis, "HSET", task_key("default", task.id), "crashes", 1)
    started = clock.now()
    await watch(a_recoverer(broker), clock)
    due = (await scores(redis, "retry")).values()
    assert len(set(due)) > 5
    assert all(started < at <= clock.now() + 30 for at in due)
    stored = await stored_message(redis, "t0")
    assert (stored.retried, stored.error_msg) == (0, "asynq: task lease expired")
    assert (await task_hash(redis, "t0"))["crashes"] == b"2"
    assert await counter(redis, "failed") == 0


async def test_third_crash_archives_the_task_as_a_poison_pill(
    broker: FlakyBroker,
    redis: Redis,
    redis_url: str,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await take(redis, redis_url, clock, "t1")
    await ask(redis, "HSET", task_key("default", "t1"), "crashes", 2)
    clock.advance(12)
    await watch(a_recoverer(broker), clock)
    assert list(await scores(redis, "archived")) == ["t1"]
    stored = await stored_message(redis, "t1")
    assert stored.error_msg == (
        "poison pill: 3 workers died while they ran it; "
        f"the worker {OWNER} died while it ran the task"
    )
    assert stored.retried == 0
    assert "crashes" not in await task_hash(redis, "t1")
    assert [r.levelno for r in caplog.records if "recovered task t1" in r.getMessage()] == [
        logging.ERROR
    ]


async def test_tasks_that_saw_three_workers_die_together_are_parted_and_not_archived(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """One of them is innocent. The one that was taken last falls silent last, and counts all the same."""
    await take(redis, redis_url, clock, "t1")
    clock.advance(5)
    await take(redis, redis_url, clock, "t2", "t3")
    for task_id, crashes in (("t1", 2), ("t2", 2), ("t3", 0)):
        await ask(redis, "HSET", task_key("default", task_id), "crashes", crashes)
    due: list[float] = []
    await watch(a_recoverer(broker, retry_due=due.append), clock, seconds=20)
    assert await states(redis, "t1", "t2", "t3") == ["retry", "retry", "pending"]
    assert len(due) == 2
    assert await invariants(redis) == []


async def test_leases_of_go_are_left_alone_until_thirty_seconds_after_their_end(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    recoverer = a_recoverer(broker)
    await seed_active(redis, message(retry=0), lease=clock.now())
    await watch(recoverer, clock, seconds=33)
    assert await states(redis, "t1") == ["active"]
    await watch(recoverer, clock, seconds=2)
    assert await listed(redis, "pending") == ["t1"]
    assert await counter(redis, "failed") == 0


@pytest.mark.parametrize("owner", [OWNER, ""])
async def test_error_handler_is_told_of_what_was_recovered(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, owner: str
) -> None:
    told = []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.append((task.id, task.queue, task.retried, type(error)))
        with pytest.raises(LeaseExpiredError):
            await task.write_result(b"too late")

    await seed_active(redis, message(), lease=clock.now() - 30.5)
    await ask(redis, "HSET", task_key("default", "t1"), "owner", owner)
    await watch(a_recoverer(broker, error_handler=error_handler), clock)
    expected = WorkerCrashedError if owner else LeaseExpiredError
    await eventually(lambda: told == [("t1", "default", 0, expected)])


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
    await watch(a_recoverer(broker, error_handler=lambda *args: told.append(args)), clock)
    assert await states(redis, "t1") == ["active"]
    assert told == []


@pytest.mark.parametrize("apart", [0, 1], ids=["in the same second", "a second apart"])
@pytest.mark.parametrize(("crashes", "where"), [(0, "pending"), (1, "retry"), (9, "archived")])
async def test_of_two_recoverers_one_acts(
    broker: FlakyBroker,
    redis: Redis,
    redis_url: str,
    clock: FakeClock,
    apart: int,
    crashes: int,
    where: str,
) -> None:
    told: list[str] = []
    clocks = [clock, FakeClock(clock.now() + apart)]
    other = FlakyBroker(redis_url, clocks[1])
    recoverers = [
        a_recoverer(each, error_handler=lambda task, error: told.append(task.id))
        for each in (broker, other)
    ]
    await seed_active(redis, *messages(20), lease=clock.now() - 31)
    for n in range(20):
        await ask(redis, "HSET", task_key("default", f"t{n}"), "crashes", crashes)
    await asyncio.gather(*map(watch, recoverers, clocks))
    await other.close()
    await eventually(lambda: sorted(told) == sorted(f"t{n}" for n in range(20)))
    assert await states(redis, *(f"t{n}" for n in range(20))) == [where] * 20


async def test_more_than_a_page_is_recovered_in_one_pass(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, *messages(250), lease=clock.now() - 31)
    await watch(a_recoverer(broker), clock)
    assert len(await listed(redis, "pending")) == 250
    assert await listed(redis, "active") == []


async def test_silent_lease_without_a_readable_task_is_set_aside(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    await seed_active(redis, *messages(3), lease=clock.now() - 31)
    await ask(redis, "DEL", task_key("default", "t0"))
    await ask(redis, "HSET", task_key("default", "t1"), "msg", b"\xff\xff")
    await watch(a_recoverer(broker), clock)
    assert await states(redis, "t0", "t1", "t2") == ["", "", "pending"]
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
    await watch(a_recoverer(broker), clock)
    assert await states(redis, "healthy") == ["pending"]
    assert await listed(redis, "active") == []


@pytest.mark.parametrize("score", ["-inf", "-1e300"])
async def test_lease_that_ended_before_all_time_is_recovered_like_others(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, score: str
) -> None:
    await seed_active(redis, message(), lease=score)
    await watch(a_recoverer(broker), clock)
    assert await states(redis, "t1") == ["pending"]


async def test_pass_in_which_nothing_can_be_settled_ends(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await seed_active(redis, *messages(3), lease=clock.now() - 31)
    recoverer = a_recoverer(broker)
    await watch(recoverer, clock, seconds=4)
    clock.advance(1)
    await ask(redis, "ACL", "SETUSER", "default", "-lrem", "-rpop")
    try:
        await recoverer.tick()
    finally:
        await ask(redis, "ACL", "SETUSER", "default", "+@all")
    assert await states(redis, "t0", "t1", "t2") == ["active"] * 3
    (record,) = caplog.records
    assert "could not recover tasks" in record.getMessage()
    assert re.search("can't run|no permissions", record.getMessage())


async def test_pass_by_a_clock_that_redis_has_not_confirmed_does_not_happen(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "anchor_age", lambda: float("inf"))
    broker.down()
    with pytest.raises(Exception, match="down"):
        await a_recoverer(broker).tick()
    assert broker.calls == 1  # the question what time it is


@pytest.mark.parametrize("is_claimed", [True, False])
async def test_own_lease_that_this_server_knows_nothing_of_is_an_orphan(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock, is_claimed: bool
) -> None:
    """A Redis that lost its last writes shows as running what has ended."""
    told: list[type] = []
    await take(redis, redis_url, clock, "t1")
    await show(redis)
    recoverer = a_recoverer(
        broker,
        owner=OWNER,
        claims=lambda queue, task_id: is_claimed and (queue, task_id) == ("default", b"t1"),
        error_handler=lambda task, error: told.append(type(error)),
    )
    clock.advance(10)
    await watch(recoverer, clock)
    assert await states(redis, "t1") == ["active" if is_claimed else "pending"]
    assert "crashes" not in await task_hash(redis, "t1")
    await eventually(lambda: told == ([] if is_claimed else [LeaseExpiredError]))


async def test_slow_error_handler_holds_up_no_recovery(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    begun, told = asyncio.Event(), []

    async def error_handler(task: ActiveTask, error: BaseException) -> None:
        told.append(task.id)
        begun.set()
        await asyncio.sleep(3600)

    recoverer = a_recoverer(broker, error_handler=error_handler)
    await seed_active(redis, *messages(2), lease=clock.now() - 31)
    await watch(recoverer, clock, seconds=6)
    await begun.wait()
    await seed_active(redis, message("late"), lease=clock.now() - 31)
    await watch(recoverer, clock, seconds=6)
    assert await states(redis, "t0", "t1", "late") == ["pending"] * 3
    await recoverer.finish()
    assert sorted(told) == ["late", "t0"]


@single.WITHOUT_REPLICAS
async def test_redis_that_takes_no_writes_makes_no_orphans(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """Nobody can extend a lease then, nor show itself; when it takes them again, all get the time to."""
    await take(redis, redis_url, clock, "t1")
    recoverer = a_recoverer(broker)
    clock.advance(10)
    await watch(recoverer, clock, seconds=4)
    await ask(redis, "CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        clock.advance(1)
        await recoverer.tick()
    finally:
        await ask(redis, "CONFIG", "SET", "min-replicas-to-write", 0)
    await watch(recoverer, clock, seconds=4)
    assert await states(redis, "t1") == ["active"]


async def test_lease_that_a_living_server_let_go_is_no_crash(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    await take(redis, redis_url, clock, "t1")
    await show(redis)
    clock.advance(41)
    told: list[type] = []
    recoverer = a_recoverer(broker, error_handler=lambda task, error: told.append(type(error)))
    await watch(recoverer, clock, seconds=6)
    assert await listed(redis, "pending") == ["t1"]
    assert "crashes" not in await task_hash(redis, "t1")
    await eventually(lambda: told == [LeaseExpiredError])
