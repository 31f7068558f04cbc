from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server.heartbeater import Heartbeater
from asynqpy.server.runs import Run, Runs
from asynqpy.task import CancelCause
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import ask, dump, key, message, scores, seed_pending
from tests.server.making import a_task, running
from tests.server.parts import a_heartbeater

SERVER = "asynq:servers:{host1:1234:5f1c9f4e}"
WORKERS = "asynq:workers:{host1:1234:5f1c9f4e}"


async def sleeps() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def runs() -> AsyncIterator[Runs]:
    runs = Runs()
    yield runs
    jobs = [run.job for run in runs if run.job is not None]
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


@pytest.fixture
async def heartbeater(broker: FlakyBroker, clock: FakeClock, runs: Runs) -> Heartbeater:
    return a_heartbeater(broker, clock, runs)


async def take(broker: FlakyBroker, redis: Redis, runs: Runs, *task_ids: str) -> list[Run]:
    """Tasks dequeued for real, each with a handler that runs."""
    await seed_pending(redis, *(message(task_id) for task_id in task_ids))
    now = broker.clock.now()
    turn = await broker.dequeue({"default": len(task_ids)})
    taken = [
        running(Run(each, a_task(each.message), started_at=now, deadline=now + 60.5), sleeps)
        for each in turn.deliveries
    ]
    for run in taken:
        runs.add(run)
    return taken


def causes(runs: Sequence[Run]) -> list[CancelCause | None]:
    return [run.task.cancel_cause for run in runs]


# Presence.


async def test_presence_is_written_as_the_wire_has_it(
    heartbeater: Heartbeater, redis: Redis, clock: FakeClock
) -> None:
    await heartbeater.tick()
    found = await dump(redis)
    assert found["asynq:servers"] == {SERVER.encode(): clock.now() + 10}
    assert "asynq:workers" not in found  # where Go looks for what servers run
    server = pb.ServerInfo()
    server.ParseFromString(found[SERVER])
    assert (server.host, server.pid, server.status) == ("host1", 1234, "active")
    assert dict(server.queues) == {"default": 1}
    assert WORKERS not in found


async def test_each_running_task_is_shown_with_its_times(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    started = clock.now()
    await take(broker, redis, runs, "t1", "t2")
    clock.advance(1)
    await heartbeater.tick()
    found = await dump(redis)
    assert found["asynq:workers"] == {WORKERS.encode(): clock.now() + 10}
    assert set(found[WORKERS]) == {b"t1", b"t2"}
    worker = pb.WorkerInfo()
    worker.ParseFromString(found[WORKERS][b"t1"])
    assert (worker.server_id, worker.task_id, worker.queue) == ("5f1c9f4e", "t1", "default")
    assert (worker.task_type, worker.task_payload) == ("email:welcome", b'{"user_id":42}')
    assert worker.start_time.ToDatetime(UTC) == datetime.fromtimestamp(started, UTC)
    assert worker.deadline.ToDatetime(UTC) == datetime.fromtimestamp(started + 60.5, UTC)
    server = pb.ServerInfo()
    server.ParseFromString(found[SERVER])
    assert server.active_worker_count == 2


@pytest.mark.parametrize(("interval", "ttl"), [(5.0, 10), (0.2, 1), (1.3, 3)])
async def test_presence_lives_for_two_beats_in_whole_seconds(
    broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock, interval: float, ttl: int
) -> None:
    await take(broker, redis, runs, "t1")
    await a_heartbeater(broker, clock, runs, interval=interval).tick()
    for name in (SERVER, WORKERS):
        assert ttl - 1 <= await ask(redis, "TTL", name) <= ttl
    assert (await dump(redis))["asynq:servers"] == {SERVER.encode(): clock.now() + ttl}


async def test_task_that_has_ended_is_shown_no_longer(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs
) -> None:
    first, second = await take(broker, redis, runs, "t1", "t2")
    await heartbeater.tick()
    runs.remove(first)
    await heartbeater.tick()
    assert set((await dump(redis))[WORKERS]) == {b"t2"}
    runs.remove(second)
    await heartbeater.tick()
    assert WORKERS not in await dump(redis)


async def test_presence_is_gone_after_the_stop(heartbeater: Heartbeater, redis: Redis) -> None:
    heartbeater.start()
    await eventually(lambda: ask(redis, "EXISTS", SERVER))
    await heartbeater.stop()
    assert await dump(redis) == {}


async def test_stop_while_redis_is_away_is_logged_and_no_more(
    heartbeater: Heartbeater, broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.down()
    await heartbeater.finish()
    assert "could not remove the server from the list of servers" in caplog.text


# Leases.


async def test_each_beat_extends_the_leases_and_keeps_their_stamp(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    taken = await take(broker, redis, runs, "t1", "t2")
    before = await scores(redis, "lease")
    clock.advance(20)
    await heartbeater.tick()
    after = await scores(redis, "lease")
    assert after == {task_id: score + 20 for task_id, score in before.items()}
    assert {run.lease.expires_at for run in taken} == {clock.now() + 30}
    assert causes(taken) == [None, None]


async def test_leases_are_extended_by_the_time_that_redis_has_just_told(
    heartbeater: Heartbeater,
    broker: FlakyBroker,
    redis: Redis,
    runs: Runs,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host slept, and its clock stood still meanwhile."""
    taken = await take(broker, redis, runs, "t1")
    before = await scores(redis, "lease")

    async def sync_clock() -> None:
        clock.advance(20)

    monkeypatch.setattr(broker, "sync_clock", sync_clock)
    await heartbeater.tick()
    assert await scores(redis, "lease") == {"t1": before["t1"] + 20}
    await asyncio.sleep(0)
    assert causes(taken) == [None]


async def test_leases_are_extended_even_when_redis_does_not_tell_its_time(
    heartbeater: Heartbeater,
    broker: FlakyBroker,
    redis: Redis,
    runs: Runs,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await take(broker, redis, runs, "t1")
    before = await scores(redis, "lease")

    async def sync_clock() -> None:
        raise BrokerError("no permission to run the 'time' command")

    monkeypatch.setattr(broker, "sync_clock", sync_clock)
    clock.advance(20)
    with pytest.raises(BrokerError, match="time"):
        await heartbeater.tick()
    assert await scores(redis, "lease") == {"t1": before["t1"] + 20}


async def test_leases_that_a_dequeue_under_way_gives_out_are_extended(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    await seed_pending(redis, message("t1"), message("t2"))
    grants = broker.grant(["default", "low"])
    with runs.granting(grants):
        turn = await broker.turn([], {"default": 2, "low": 2}, grants)
        before = await scores(redis, "lease")
        for seconds in (20, 40):
            clock.advance(20)
            await heartbeater.tick()
            extended = {task_id: score + seconds for task_id, score in before.items()}
            assert await scores(redis, "lease") == extended
    assert len(turn.deliveries) == 2
    clock.advance(20)
    await heartbeater.tick()
    assert await scores(redis, "lease") == {task_id: s + 40 for task_id, s in before.items()}


async def test_lease_is_extended_while_the_outcome_waits_to_be_written(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    (run,) = await take(broker, redis, runs, "t1")
    end(run, runs)
    before = await scores(redis, "lease")
    clock.advance(20)
    await heartbeater.tick()
    assert await scores(redis, "lease") == {"t1": before["t1"] + 20}
    runs.let_go(run.lease)
    clock.advance(5)
    await heartbeater.tick()
    assert await scores(redis, "lease") == {"t1": before["t1"] + 20}


def end(run: Run, runs: Runs) -> None:
    """As when the handler has returned."""
    assert run.job is not None
    run.job.cancel()
    run.ended = True
    runs.remove(run)


@pytest.mark.parametrize("is_expired", [False, True])
async def test_lost_lease_of_a_run_that_has_ended_cancels_nothing(
    heartbeater: Heartbeater,
    broker: FlakyBroker,
    redis: Redis,
    runs: Runs,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    is_expired: bool,
) -> None:
    ended, other = await take(broker, redis, runs, "t1", "t2")
    end(ended, runs)
    if is_expired:
        ended.lease.expires_at = clock.now()
    await ask(redis, "ZREM", key("default", "lease"), "t1")
    await heartbeater.tick()
    await asyncio.sleep(0)
    assert causes([ended, other]) == [None, None]
    assert caplog.records == []
    assert list(await scores(redis, "lease")) == ["t2"]


async def test_handler_whose_lease_was_lost_is_cancelled_and_no_other(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    taken = await take(broker, redis, runs, "t1", "t2")
    await ask(redis, "ZADD", key("default", "lease"), clock.now() + 30, "t1")
    await heartbeater.tick()
    await eventually(lambda: causes(taken) == [CancelCause.LEASE_LOST, None])
    assert (await scores(redis, "lease"))["t1"] == clock.now() + 30


async def test_lease_that_is_gone_is_not_brought_back(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs
) -> None:
    taken = await take(broker, redis, runs, "t1")
    await ask(redis, "ZREM", key("default", "lease"), "t1")
    await heartbeater.tick()
    await eventually(lambda: causes(taken) == [CancelCause.LEASE_LOST])
    assert await scores(redis, "lease") == {}


async def test_lost_lease_is_held_no_longer_so_that_its_handler_is_cancelled_once(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs
) -> None:
    """It may need longer than a beat to clean up."""
    (run,) = await take(broker, redis, runs, "t1")
    await ask(redis, "ZADD", key("default", "lease"), 1_800_000_000, "t1")
    await heartbeater.tick()
    await asyncio.sleep(0)
    assert causes([run]) == [CancelCause.LEASE_LOST]
    assert runs.held() == {}
    assert list(runs) == [run]


async def test_run_that_ended_while_the_beat_was_under_way_has_lost_nothing(
    heartbeater: Heartbeater,
    broker: FlakyBroker,
    redis: Redis,
    runs: Runs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (run,) = await take(broker, redis, runs, "t1")
    await ask(redis, "ZREM", key("default", "lease"), "t1")
    run.ended = True
    await heartbeater.tick()
    await asyncio.sleep(0)
    assert run.task.cancel_cause is None
    assert caplog.records == []


async def test_lease_that_runs_out_while_redis_is_away_cancels_its_handler(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    taken = await take(broker, redis, runs, "t1")
    broker.down()
    clock.advance(29)
    with pytest.raises(BrokerUnavailableError):
        await heartbeater.tick()
    await asyncio.sleep(0)
    assert causes(taken) == [None]
    clock.advance(1)
    with pytest.raises(BrokerUnavailableError):
        await heartbeater.tick()
    await eventually(lambda: causes(taken) == [CancelCause.LEASE_LOST])


async def test_lease_that_runs_out_because_redis_refuses_cancels_its_handler(
    heartbeater: Heartbeater, broker: FlakyBroker, redis: Redis, runs: Runs, clock: FakeClock
) -> None:
    taken = await take(broker, redis, runs, "t1")
    await ask(redis, "RENAME", key("default", "lease"), key("default", "kept"))
    await ask(redis, "SET", key("default", "lease"), "junk")
    clock.advance(30)
    await heartbeater.tick()
    await eventually(lambda: causes(taken) == [CancelCause.LEASE_LOST])
