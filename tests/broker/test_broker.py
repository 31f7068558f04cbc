from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import ServerInfo, WorkerInfo
from asynqpy.broker.outcomes import Archive, Done, Outcome, Retry, SilentLease
from asynqpy.errors import BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests import single
from tests.broker.factories import STAMP, lease_on, lease_score, new_task, settlement
from tests.fake_clock import FakeClock
from tests.redis_process import HOST, RedisProcess, free_port
from tests.redis_proxy import RedisProxy

# turn


async def test_a_turn_settles_first_and_then_takes(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """So that what is put in order in one turn can already be taken by it."""
    tasks = state.messages(3)
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    await state.seed_pending(redis, state.message("next"))
    outcomes: list[Outcome] = [Done(), Retry(clock.now() + 9, "no luck"), Archive("no luck")]
    reports = [settlement(t, o, clock.now()) for t, o in zip(tasks, outcomes, strict=True)]
    turn = await broker.turn(reports, {"default": 5, "empty": 5})
    assert turn.settled == [True] * 3
    assert [delivery.message.id for delivery in turn.deliveries] == ["next"]
    assert turn.backlog == {"default": 0, "empty": 0}
    assert await state.invariants(redis) == []


@single.PROXIED
async def test_a_turn_is_one_round_trip(
    redis_server: RedisProcess, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    async with RedisProxy.before(redis_server) as proxy:
        broker = Broker(proxy.url, clock)
        await broker.turn([settlement(task, Done(), clock.now())], {"default": 1, "low": 1})
        before = len(proxy.requests)
        await broker.turn([settlement(task, Done(), clock.now())], {"default": 1, "low": 1})
        assert len(proxy.requests) == before + 1
        await broker.close()


async def test_a_turn_without_anything_to_do_is_empty(broker: Broker, redis: Redis) -> None:
    turn = await broker.turn([], {})
    assert (turn.settled, turn.deliveries, turn.backlog, turn.errors) == ([], [], {}, {})
    assert await state.dump(redis) == {}


async def test_an_error_of_one_queue_leaves_the_others_alone(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    good, bad = state.message("good"), state.message("bad", queue="low")
    await state.seed_active(redis, good, bad, lease=lease_score(clock))
    await state.seed_pending(redis, state.message("next"))
    await state.ask(redis, "DEL", state.key("low", "lease"))
    await state.ask(redis, "SET", state.key("low", "lease"), "noise")
    reports = [settlement(task, Done(), clock.now()) for task in (bad, good)]
    turn = await broker.turn(reports, {"low": 1, "default": 1})
    refused, settled = turn.settled
    assert isinstance(refused, BrokerError)
    assert settled is True
    assert [delivery.message.id for delivery in turn.deliveries] == ["next"]


async def test_tasks_of_two_brokers_never_meet(
    broker: Broker, other_broker: Broker, redis: Redis
) -> None:
    await state.seed_pending(redis, *state.messages(10))
    taken = [
        delivery.message.id
        for each in (broker, other_broker) * 2
        for delivery in (await each.dequeue({"default": 3})).deliveries
    ]
    assert taken == [f"t{n}" for n in range(10)]
    assert await state.invariants(redis) == []


# extend_lease


async def test_a_held_lease_is_extended_and_keeps_its_stamp(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    tasks = [state.message("a"), state.message("b", queue="low")]
    await state.seed_active(redis, *tasks, lease=lease_score(clock))
    leases = [lease_on(task, clock) for task in tasks]
    clock.advance(12.5)
    for _ in range(2):  # again after a lost reply: the same
        assert await broker.extend_lease(leases) == []
        assert [lease.expires_at for lease in leases] == [int(clock.now()) + 30] * 2
        assert await state.scores(redis, "lease") == {"a": lease_score(clock)}
        assert await state.scores(redis, "lease", "low") == {"b": lease_score(clock)}


@pytest.mark.parametrize("holder", [STAMP + 1, 0, None], ids=["of ours", "of Go's", "nobody"])
async def test_a_lost_lease_is_told_and_not_extended(
    broker: Broker, clock: FakeClock, redis: Redis, holder: int | None
) -> None:
    """Go does not look, and goes on running what is another's by now (B7)."""
    kept, lost = state.message("kept"), state.message("lost")
    await state.seed_active(redis, kept, lease=lease_score(clock))
    await state.seed_active(redis, lost, lease=lease_score(clock, holder or 0))
    if holder is None:
        await state.ask(redis, "ZREM", state.key("default", "lease"), "lost")
    leases = [lease_on(lost, clock), lease_on(kept, clock)]
    expiry, before = leases[0].expires_at, await state.scores(redis, "lease")
    clock.advance(5)
    assert await broker.extend_lease(leases) == [leases[0]]
    assert leases[0].expires_at == expiry
    assert await state.scores(redis, "lease") == before | {"kept": lease_score(clock)}


async def test_a_lease_that_redis_refused_to_extend_is_neither_extended_nor_lost(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.ask(redis, "SET", state.key("default", "lease"), "noise")
    lease = lease_on(state.message(), clock)
    expiry = lease.expires_at
    clock.advance(5)
    assert await broker.extend_lease([lease]) == []
    assert lease.expires_at == expiry


async def test_many_leases_of_many_queues_are_extended(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    for queue in ("a", "b"):
        ids = {f"t{n}": lease_score(clock) for n in range(601)}
        await state.seed_many(redis, "active", ids, queue)
    tasks = [state.message(f"t{n}", queue=q) for n in range(602) for q in ("a", "b")]
    leases = [lease_on(task, clock) for task in tasks]
    assert await broker.extend_lease(leases) == leases[-2:]
    assert await broker.extend_lease([]) == []


# write_result


async def test_a_running_task_stores_its_result_and_may_replace_it(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock))
    for data in (b"half", b"\x00whole\xff", b"\x00whole\xff"):
        assert await broker.write_result(lease_on(task, clock), data) is True
        assert (await state.task_hash(redis, "t1"))["result"] == data
    assert await state.invariants(redis) == []


async def test_a_late_result_does_not_bring_a_finished_task_back(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """In Go it does, and blocks the id for ever (B25)."""
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock))
    await broker.settle([settlement(task, Done(), clock.now())])
    before = await state.dump(redis)
    assert await broker.write_result(lease_on(task, clock), b"42") is False
    assert await state.dump(redis) == before


@pytest.mark.parametrize("holder", [STAMP + 1, 0], ids=["of ours", "of Go's"])
async def test_another_holders_task_takes_no_result(
    broker: Broker, clock: FakeClock, redis: Redis, holder: int
) -> None:
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock, holder))
    before = await state.dump(redis)
    assert await broker.write_result(lease_on(task, clock), b"42") is False
    assert await state.dump(redis) == before


async def test_a_ghost_takes_no_result(broker: Broker, clock: FakeClock, redis: Redis) -> None:
    task = state.message()
    await state.seed_active(redis, task, lease=lease_score(clock))
    await state.ask(redis, "DEL", state.task_key("default", "t1"))
    assert await broker.write_result(lease_on(task, clock), b"42") is False
    assert not await state.ask(redis, "EXISTS", state.task_key("default", "t1"))


# Presence


def server_info(**fields: object) -> ServerInfo:
    known = {
        "host": "h",
        "pid": 1,
        "server_id": "s",
        "concurrency": 10,
        "queues": {"default": 1},
        "status": "active",
        "start_time": datetime(2026, 1, 1, tzinfo=UTC),
        "active_worker_count": 0,
    }
    return ServerInfo(**(known | fields))  # type: ignore[arg-type]


def worker_info(task_id: str) -> WorkerInfo:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkerInfo(
        host="h",
        pid=1,
        server_id="s",
        task_id=task_id,
        task_type="t",
        task_payload=b"",
        queue="default",
        start_time=started,
        deadline=started,
    )


async def test_a_server_and_what_it_runs_are_shown_for_a_while(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    server, workers = server_info(), [worker_info("a"), worker_info("b")]
    await broker.write_server_state(server, workers, 10)
    expiry = int(clock.now()) + 10
    assert await state.dump(redis) == {
        "asynq:servers": {b"asynq:servers:{h:1:s}": expiry},
        "asynq:workers": {b"asynq:workers:{h:1:s}": expiry},
        "asynq:servers:{h:1:s}": server.encode(),
        "asynq:workers:{h:1:s}": {b"a": workers[0].encode(), b"b": workers[1].encode()},
    }
    for key in ("asynq:servers:{h:1:s}", "asynq:workers:{h:1:s}"):
        assert 0 < await state.ask(redis, "TTL", key) <= 10


async def test_what_is_shown_is_replaced_by_the_next_heartbeat(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await broker.write_server_state(server_info(), [worker_info("a")], 10)
    clock.advance(5)
    await broker.write_server_state(server_info(status="stopped"), [], 10)
    expiry = int(clock.now()) + 10
    assert await state.dump(redis) == {
        "asynq:servers": {b"asynq:servers:{h:1:s}": expiry},
        # Of a server that runs nothing there is nothing to be listed: what was listed ends by itself.
        "asynq:workers": {b"asynq:workers:{h:1:s}": expiry - 5},
        "asynq:servers:{h:1:s}": server_info(status="stopped").encode(),
    }


async def test_a_server_that_leaves_takes_only_its_own_records_along(
    broker: Broker, redis: Redis
) -> None:
    await broker.write_server_state(server_info(server_id="other"), [], 10)
    before = await state.dump(redis)
    await broker.write_server_state(server_info(), [worker_info("a")], 10)
    for _ in range(2):
        await broker.clear_server_state(server_info())
        assert await state.dump(redis) == before


@pytest.mark.parametrize("key", ["asynq:servers", "asynq:workers"])
async def test_a_heartbeat_that_redis_refused_is_an_error(
    broker: Broker, redis: Redis, key: str
) -> None:
    await state.ask(redis, "SET", key, "noise")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.write_server_state(server_info(), [worker_info("a")], 10)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.clear_server_state(server_info())


# Queues are registered


async def test_a_producer_registers_a_queue_once_for_a_while(broker: Broker, redis: Redis) -> None:
    await broker.enqueue([new_task("a"), new_task("b", queue="low")])
    assert await state.ask(redis, "SMEMBERS", "asynq:queues") == {b"default", b"low"}
    await state.ask(redis, "DEL", "asynq:queues")
    await broker.enqueue([new_task("c")])
    assert not await state.ask(redis, "EXISTS", "asynq:queues")


async def test_a_producer_registers_a_queue_again_that_was_removed_meanwhile(
    broker: Broker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go does it once per process, and the queue is never seen again (WIRE T21)."""
    monkeypatch.setattr("asynqpy.broker.producing._REGISTER_AGAIN", 0.0)
    await broker.enqueue([new_task("a")])
    await state.ask(redis, "DEL", "asynq:queues")
    await broker.enqueue([new_task("b")])
    assert await state.invariants(redis) == []


async def test_a_queue_whose_registration_failed_is_registered_the_next_time(
    broker: Broker, redis: Redis
) -> None:
    await state.ask(redis, "SET", "asynq:queues", "noise")
    assert await broker.enqueue([new_task("a")]) == [None]
    await state.ask(redis, "DEL", "asynq:queues")
    await broker.enqueue([new_task("b")])
    assert await state.invariants(redis) == []


# The rest


async def test_a_sibling_shares_redis_and_the_clock_but_no_connection(
    broker: Broker, clock: FakeClock
) -> None:
    sibling = broker.sibling()
    assert sibling.clock is clock
    await sibling.ping()
    await sibling.close()
    await broker.ping()


CALLS: dict[str, Callable[[Broker], object]] = {
    "ping": lambda b: b.ping(),
    "sync_clock": lambda b: b.sync_clock(),
    "enqueue": lambda b: b.enqueue([new_task()]),
    "dequeue": lambda b: b.dequeue({"default": 1}),
    "settle": lambda b: b.settle([settlement(state.message(), Done(), 1)]),
    "extend_lease": lambda b: b.extend_lease([lease_on(state.message(), b.clock)]),
    "extend_grants": lambda b: b.extend_grants(b.grant(["default"])),
    "keep_clock": lambda b: b.keep_clock(),
    "write_result": lambda b: b.write_result(lease_on(state.message(), b.clock), b""),
    "forward": lambda b: b.forward(["default"]),
    "silent_leases": lambda b: b.silent_leases(["default"], 1, 1),
    "orphans": lambda b: b.orphans([SilentLease("default", b"t1", "1.5")]),
    "absent": lambda b: b.absent(["host:1:a"]),
    "requeue_grants": lambda b: b.requeue_grants(b.grant(["default"])),
    "delete_expired_completed": lambda b: b.delete_expired_completed(["default"]),
    "write_server_state": lambda b: b.write_server_state(server_info(), [], 1),
    "clear_server_state": lambda b: b.clear_server_state(server_info()),
    "publish_cancel": lambda b: b.publish_cancel("t1"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_says_that_redis_is_away(name: str) -> None:
    broker = Broker(f"redis://{HOST}:{free_port()}/0")
    with pytest.raises(BrokerUnavailableError):
        await CALLS[name](broker)  # type: ignore[misc]
    await broker.close()


def test_a_broker_shows_where_its_redis_is() -> None:
    assert repr(Broker("redis://:s3cret@localhost:6379/2")) == "<Broker localhost:6379/2>"
