from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import islice

import pytest
from redis.asyncio import Redis

from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.broker import Broker, Turn
from asynqpy.broker.consuming import stamps
from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import LEASE_SECONDS, STAMPS, Done, Settlement
from tests import redis_state as state
from tests.fake_clock import FakeClock


@pytest.fixture
async def broker(redis_url: str, clock: FakeClock) -> AsyncIterator[Broker]:
    broker = Broker(redis_url, clock, owner="host1:1234:abc")
    yield broker
    await broker.close()


async def take(broker: Broker, limit: int = 10, queue: str = "default") -> Turn:
    return await broker.dequeue({queue: limit})


def ids(turn: Turn) -> list[str]:
    return [delivery.message.id for delivery in turn.deliveries]


async def test_a_dequeued_task_is_active_under_a_lease_and_not_pending_any_more(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    task = state.message("t1", headers={"k": "v"})
    await state.seed_pending(redis, task)
    turn = await take(broker)
    (delivery,) = turn.deliveries
    assert delivery.message == TaskMessage.decode(task.SerializeToString())
    lease = delivery.lease
    assert (lease.queue, lease.id) == ("default", "t1")
    assert lease.expires_at == clock.now() + LEASE_SECONDS
    assert await state.dump(redis) == {
        "asynq:queues": {b"default"},
        "asynq:{default}:active": [b"t1"],
        "asynq:{default}:lease": {b"t1": lease.expires_at + lease.stamp / STAMPS},
        "asynq:{default}:t:t1": {
            b"msg": task.SerializeToString(),
            b"state": b"active",
            b"owner": b"host1:1234:abc",
        },
    }


async def test_other_fields_of_a_task_stay(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, state.message(unique_key=state.lock_key()))
    await state.ask(redis, "HSET", state.task_key("default", "t1"), "extra", "kept")
    await take(broker)
    fields = await state.task_hash(redis, "t1")
    assert fields.keys() == {"msg", "state", "owner", "unique_key", "extra"}


async def test_the_oldest_task_comes_first_and_the_backlog_is_told(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_pending(redis, *state.messages(5))
    turn = await take(broker, 3)
    assert ids(turn) == ["t0", "t1", "t2"]
    assert turn.backlog == {"default": 2}
    assert await state.listed(redis, "active") == ["t0", "t1", "t2"]
    assert await state.listed(redis, "pending") == ["t3", "t4"]


async def test_an_empty_queue_gives_nothing(broker: Broker, redis: Redis) -> None:
    turn = await take(broker)
    assert (turn.deliveries, turn.backlog, turn.errors) == ([], {"default": 0}, {})
    assert await state.dump(redis) == {}


async def test_asking_for_no_tasks_tells_the_backlog(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, *state.messages(2))
    before = await state.dump(redis)
    turn = await take(broker, 0)
    assert (turn.deliveries, turn.backlog) == ([], {"default": 2})
    assert await state.dump(redis) == before


async def test_a_paused_queue_gives_nothing_and_the_others_do(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, state.message("a"), state.message("b", queue="low"))
    await state.ask(redis, "SET", state.key("default", "paused"), "1700000000")
    turn = await broker.dequeue({"default": 5, "low": 5})
    assert ids(turn) == ["b"]
    assert turn.backlog == {"default": 0, "low": 0}
    assert await state.states(redis, "a") == ["pending"]


async def test_a_server_that_asks_for_thousands_is_given_a_batch(
    broker: Broker, redis: Redis
) -> None:
    """A script with more would fail half way, between the move and the leases."""
    await state.seed_many(redis, "pending", {f"t{n}": 0 for n in range(4_200)})
    turn = await take(broker, 4_200)
    assert len(turn.deliveries) == MAX_BATCH
    assert turn.backlog == {"default": 4_200 - MAX_BATCH}
    assert len(await state.scores(redis, "lease")) == MAX_BATCH


async def test_each_dequeue_has_a_stamp_of_its_own(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, *state.messages(3))
    turns = [await take(broker, 1) for _ in range(3)]
    assert len({turn.deliveries[0].lease.stamp for turn in turns}) == 3


def test_stamps_are_never_gos_and_start_anywhere() -> None:
    starts = {next(stamps()) for _ in range(20)}
    assert len(starts) > 1
    assert all(0 < stamp < STAMPS for stamp in starts)


def test_stamps_go_round_without_passing_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda low, high: high - 2)
    assert list(islice(stamps(), 4)) == [STAMPS - 2, STAMPS - 1, 1, 2]


async def test_an_id_that_is_pending_while_it_runs_is_not_given_away_again(
    broker: Broker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await state.seed_active(redis, state.message("t1"), lease=4_000_000_000)
    await state.ask(redis, "LPUSH", state.key("default", "pending"), "t1")
    turn = await take(broker)
    assert turn.deliveries == []
    assert await state.invariants(redis) == []
    assert await state.scores(redis, "lease") == {"t1": 4_000_000_000}
    assert "dropped the second entry" in caplog.text


async def test_an_id_that_is_pending_twice_runs_once(broker: Broker, redis: Redis) -> None:
    await state.seed_pending(redis, *state.messages(2))
    await state.ask(redis, "LPUSH", state.key("default", "pending"), "t0")
    assert ids(await take(broker)) == ["t0", "t1"]
    assert await state.invariants(redis) == []


# What cannot be read is set aside with every byte, and the rest of the batch is not held up.


async def assert_set_aside_beside_healthy_tasks(
    broker: Broker, redis: Redis, task_id: bytes, kept: object
) -> None:
    turn = await take(broker)
    assert ids(turn) == ["good1", "good2"]
    assert turn.errors == {}
    assert await state.invariants(redis) == []
    quarantined = await state.dump(redis, "asynqpy:*")
    assert quarantined.pop("asynqpy:{default}:quarantine").keys() == {task_id}
    assert list(quarantined.values()) == ([] if kept is None else [kept])
    assert len(await state.scores(redis, "lease")) == 2


async def seed_between_healthy_tasks(redis: Redis, task_id: str | bytes) -> None:
    await state.seed_pending(redis, state.message("good1"))
    await state.ask(redis, "LPUSH", state.key("default", "pending"), task_id)
    await state.seed_pending(redis, state.message("good2"))


async def test_an_id_without_a_hash_is_set_aside_and_leaves_no_ghost(
    broker: Broker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Go makes a bare hash of it that blocks the id for ever (B3)."""
    await seed_between_healthy_tasks(redis, "ghost")
    await assert_set_aside_beside_healthy_tasks(broker, redis, b"ghost", None)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.__dict__["task_id"], record.__dict__["queue"]) == ("ghost", "default")
    assert "no message" in record.getMessage()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xffnoise",
        b"",
        b"\x0a\x02\xc3\x28",
        state.message("another").SerializeToString(),
        state.message("bad", queue="low").SerializeToString(),
    ],
    ids=["noise", "empty", "bad UTF-8", "of another task", "of another queue"],
)
async def test_a_message_that_cannot_be_read_is_set_aside(
    broker: Broker, redis: Redis, data: bytes
) -> None:
    await seed_between_healthy_tasks(redis, "bad")
    key = state.task_key("default", "bad")
    await state.ask(redis, "HSET", key, "msg", data, "state", "pending", "extra", "kept")
    kept = {b"msg": data, b"state": b"active", b"extra": b"kept", b"owner": b"host1:1234:abc"}
    await assert_set_aside_beside_healthy_tasks(broker, redis, b"bad", kept)


async def test_a_hash_of_the_wrong_type_is_set_aside(broker: Broker, redis: Redis) -> None:
    await seed_between_healthy_tasks(redis, "bad")
    await state.ask(redis, "SET", state.task_key("default", "bad"), "noise")
    await assert_set_aside_beside_healthy_tasks(broker, redis, b"bad", b"noise")


async def test_an_id_that_is_no_text_is_set_aside(broker: Broker, redis: Redis) -> None:
    await seed_between_healthy_tasks(redis, b"\xff\xfe")
    await state.ask(redis, "HSET", b"asynq:{default}:t:\xff\xfe", "msg", "noise")
    kept = {b"msg": b"noise", b"state": b"active", b"owner": b"host1:1234:abc"}
    await assert_set_aside_beside_healthy_tasks(broker, redis, b"\xff\xfe", kept)


async def test_what_was_set_aside_before_under_the_same_id_stays(
    broker: Broker, redis: Redis
) -> None:
    for _ in range(3):
        await seed_between_healthy_tasks(redis, "bad")
        await state.ask(redis, "HSET", state.task_key("default", "bad"), "msg", "noise")
        await take(broker)
        await state.ask(redis, "DEL", state.key("default", "active"), state.key("default", "lease"))
    names = (await state.dump(redis, "asynqpy:*")).keys()
    prefix = "asynqpy:{default}:quarantine"
    assert names == {prefix, f"{prefix}:bad", f"{prefix}:bad:2", f"{prefix}:bad:3"}


@pytest.mark.parametrize("container", ["pending", "active", "lease"])
async def test_a_container_of_the_wrong_type_is_set_aside_so_that_the_next_turn_works(
    broker: Broker, redis: Redis, container: str
) -> None:
    await state.seed_pending(redis, state.message("other", queue="low"))
    if container != "pending":
        await state.seed_pending(redis, state.message("t1"))
    await state.ask(redis, "SET", state.key("default", container), "noise")
    turn = await broker.dequeue({"default": 5, "low": 5})
    assert ids(turn) == ["other"]
    assert "WRONGTYPE" in str(turn.errors["default"])
    assert ids(await take(broker)) == ([] if container == "pending" else ["t1"])
    assert await state.invariants(redis) == []
    assert await state.dump(redis, "asynqpy:*") == {
        f"asynqpy:{{default}}:quarantine:key:{container}": b"noise"
    }


async def test_tasks_are_handed_out_even_when_nothing_can_be_set_aside(
    broker: Broker, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The healthy ones are leased already; to lose their names would cost each of them an attempt."""
    await state.ask(redis, "SET", "asynqpy:{default}:quarantine", "noise")
    await seed_between_healthy_tasks(redis, "ghost")
    turn = await take(broker)
    assert ids(turn) == ["good1", "good2"]
    assert "WRONGTYPE" in caplog.text


# Silent leases.


async def orphans(broker: Broker, *queues: str) -> list[str]:
    """The ids of all tasks under a lease that have a readable message."""
    silent = await broker.silent_leases(queues or ["default"], 1_900_000_000, 1_900_000_000)
    return [orphan.message.id for orphan in await broker.orphans(silent)]


async def test_silent_leases_are_listed_with_the_exact_score_longest_ago_first(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    now = int(clock.now())
    scores = {
        "go": str(now - 50),
        "ours": f"{now - 40}.25",
        "at the cutoff of go": str(now - 30),
        "later": str(now - 29),
        "ours to go on": f"{now + 20}.5",
        "fresh": f"{now + 21}.5",
    }
    for task_id, score in scores.items():
        await state.seed_active(redis, state.message(task_id), lease=score)
    before = await state.dump(redis)
    silent = await broker.silent_leases(["default", "empty"], now + 20.9, now - 29.1)
    assert [(lease.id.decode(), lease.score) for lease in silent] == [
        (name, scores[name]) for name in ("go", "ours", "at the cutoff of go")
    ]
    silent = await broker.silent_leases(["default"], now + 21, now - 30)
    assert [lease.id for lease in silent][-1] == b"ours to go on"
    assert await state.dump(redis) == before


async def test_silent_lease_tells_its_owner_and_how_many_workers_have_died_with_it(
    broker: Broker, redis: Redis
) -> None:
    fields = {"new": (), "old": ("owner", "host:1:a", "crashes", 2), "odd": ("crashes", "many")}
    for task_id, words in fields.items():
        await state.seed_active(redis, state.message(task_id), lease="1700000000.5")
        if words:
            await state.ask(redis, "HSET", state.task_key("default", task_id), *words)
    silent = await broker.silent_leases(["default"], 1_800_000_000, 0)
    told = {lease.id.decode(): (lease.owner, lease.crashes) for lease in silent}
    assert told == {"new": ("", 0), "old": ("host:1:a", 2), "odd": ("", 0)}


async def test_owner_that_a_go_worker_left_as_it_was_does_not_count(
    broker: Broker, redis: Redis
) -> None:
    await state.seed_active(redis, state.message(), lease=1_700_000_000)
    await state.ask(redis, "HSET", state.task_key("default", "t1"), "owner", "host:1:a")
    (lease,) = await broker.silent_leases(["default"], 1_800_000_000, 1_800_000_000)
    assert (lease.is_go, lease.owner) == (True, "")


async def test_a_crashed_dequeue_comes_to_light_when_nobody_extends_its_lease(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.seed_pending(redis, state.message("t1"))
    await take(broker)
    now = clock.now()
    assert await broker.silent_leases(["default"], now + LEASE_SECONDS - 1, now) == []
    (lease,) = await broker.silent_leases(["default"], now + LEASE_SECONDS + 1, now)
    assert lease.owner == "host1:1234:abc"
    (orphan,) = await broker.orphans([lease])
    done = Settlement(orphan.message, lease.score, Done(), clock.now())
    assert await broker.settle([done]) == [True]


@pytest.mark.parametrize("damage", ["no hash", "noise", "wrong type"])
async def test_one_bad_record_does_not_stop_recovery_and_is_set_aside(
    broker: Broker, redis: Redis, damage: str
) -> None:
    """In Go it stops the recovery of every queue (B2, B3)."""
    for task_id in ("good", "bad"):
        await state.seed_active(redis, state.message(task_id), lease=1_700_000_000)
    await state.seed_active(redis, state.message("other", queue="low"), lease=1_700_000_000)
    key = state.task_key("default", "bad")
    if damage == "noise":
        await state.ask(redis, "HSET", key, "msg", b"\xff\xffnoise")
    else:
        await state.ask(redis, "DEL", key)
    if damage == "wrong type":
        await state.ask(redis, "SET", key, "noise")
    assert await orphans(broker, "default", "low") == ["good", "other"]
    assert await state.invariants(redis) == []
    assert await state.scores(redis, "lease") == {"good": 1_700_000_000}
    quarantine = await state.ask(redis, "ZRANGE", "asynqpy:{default}:quarantine", 0, -1)
    assert quarantine == [b"bad"]


async def test_a_lease_set_of_the_wrong_type_does_not_stop_other_queues(
    broker: Broker, redis: Redis
) -> None:
    await state.ask(redis, "SET", state.key("default", "lease"), "noise")
    await state.seed_active(redis, state.message("other", queue="low"), lease=1_700_000_000)
    assert await orphans(broker, "default", "low") == ["other"]
    assert not await state.ask(redis, "EXISTS", state.key("default", "lease"))
