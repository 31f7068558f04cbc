"""B2-B5 and B8: how asynq loses tasks, or their ids, for good when a record is bad or a worker dies."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Done, Outcome, Requeue
from tests.broker.factories import lease_score, new_task, settlement
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import (
    ask,
    counter,
    dump,
    invariants,
    key,
    listed,
    lock_key,
    message,
    scores,
    seed_active,
    seed_pending,
    seed_retry,
    seed_scheduled,
    states,
    stored_message,
    task_hash,
    task_key,
)
from tests.regressions.histories import (
    OUTCOMES,
    Slow,
    closing,
    die_with,
    lease_to_go,
    name_of,
    watch,
)
from tests.server.parts import a_recoverer, a_workshop, work_off

# B2: one message that cannot be decoded.


@pytest.mark.parametrize("whose", ["go", "ours"])
async def test_b02_a_bad_message_among_expired_leases_holds_up_no_other(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, whose: str
) -> None:
    """asynq's list of expired leases fails as a whole, for all queues: nothing is ever recovered again."""
    long_ago = clock.now() - 99 + (0.5 if whose == "ours" else 0)
    await seed_active(redis, message("bad"), message("t1"), lease=long_ago)
    await ask(redis, "HSET", task_key("default", "bad"), "msg", b"\xff\xff no protobuf")
    await watch(a_recoverer(broker), clock)
    assert await states(redis, "bad", "t1") == ["", "pending"]
    kept = await ask(redis, "HGET", "asynqpy:{default}:quarantine:bad", "msg")
    assert kept == b"\xff\xff no protobuf"
    assert await invariants(redis) == []


# B3: ghosts, ids without a hash.


async def test_b03_an_id_without_a_hash_is_not_made_a_task_and_costs_no_turn(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq makes it a bare hash that is active for ever, and takes the queue for empty."""
    await ask(redis, "LPUSH", key("default", "pending"), "ghost")
    await seed_pending(redis, message("t1"))
    turn = await broker.dequeue({"default": 2})
    assert [delivery.message.id for delivery in turn.deliveries] == ["t1"]
    assert await dump(redis, "*ghost") == {}, "no hash was made, not even to be set aside"
    assert await broker.enqueue([new_task("ghost", token="mine")]) == [None]
    assert await invariants(redis) == []


@pytest.mark.parametrize("container", ["scheduled", "retry"])
async def test_b03_a_delayed_id_without_a_hash_is_not_forwarded(
    broker: FlakyBroker, redis: Redis, container: str
) -> None:
    """asynq's forward makes it a bare hash, which then waits in `pending` for the fault above."""
    seed = {"scheduled": seed_scheduled, "retry": seed_retry}[container]
    await seed(redis, message("ghost"), message("t1"), at=1)
    await ask(redis, "DEL", task_key("default", "ghost"))
    await broker.forward(["default"])
    assert await listed(redis, "pending") == ["t1"]
    assert await task_hash(redis, "ghost") == {}
    assert await invariants(redis) == []


@pytest.mark.parametrize("outcome", [Requeue(), Done()], ids=name_of)
async def test_b03_a_running_task_whose_hash_is_gone_does_not_come_back_as_a_bare_one(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, outcome: Outcome
) -> None:
    """asynq's requeue makes it a bare hash too."""
    task = message()
    await seed_active(redis, task, lease=lease_score(clock))
    await ask(redis, "DEL", task_key("default", "t1"))
    await broker.settle([settlement(task, outcome, clock.now())])
    assert await dump(redis, "*:t:*") == {}
    assert await invariants(redis) == []


async def test_b03_an_id_that_is_pending_twice_runs_once_and_leaves_nothing(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq runs it, deletes it, and makes the second entry a ghost."""
    worked: list[str] = []
    await seed_pending(redis, message("t1"))
    await ask(redis, "LPUSH", key("default", "pending"), "t1")
    shop = a_workshop(broker, lambda task: worked.append(task.id), concurrency=1)
    await work_off(shop)
    await work_off(shop)
    assert worked == ["t1"]
    assert await dump(redis, "*:t:*") == {}
    assert await invariants(redis) == []


async def test_b03_a_ghost_that_go_made_is_cleared_away_when_its_lease_has_ended(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq's recoverer skips ids without a message: the ghost stays in `active`, and its id is taken, for ever."""
    await ask(redis, "SADD", "asynq:queues", "default")
    await ask(redis, "LPUSH", key("default", "active"), "ghost")
    await ask(redis, "ZADD", key("default", "lease"), int(clock.now()) - 31, "ghost")
    await ask(redis, "HSET", task_key("default", "ghost"), "state", "active")
    await watch(a_recoverer(broker), clock)
    assert await invariants(redis) == []
    assert await broker.enqueue([new_task("ghost", token="mine")]) == [None]


# B4: scripts that write before they have looked.


@pytest.mark.parametrize("outcome", OUTCOMES, ids=name_of)
async def test_b04_a_task_whose_lease_is_gone_is_settled_by_nobody_and_not_by_half(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, outcome: Outcome
) -> None:
    """asynq removes it from `active`, misses the lease and stops: hash and lock stay, in no list, for ever."""
    task = message(unique_key=lock_key())
    await seed_active(redis, task, lease=lease_score(clock))
    await ask(redis, "ZREM", key("default", "lease"), "t1")
    before = await dump(redis)
    assert await broker.settle([settlement(task, outcome, clock.now())]) == [False]
    assert await dump(redis) == before


@pytest.mark.parametrize("outcome", OUTCOMES, ids=name_of)
async def test_b04_a_leased_task_that_is_not_in_active_is_settled_wholly(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, outcome: Outcome
) -> None:
    """asynq stops at the first step: lease, hash and lock stay."""
    task = message(unique_key=lock_key())
    await seed_active(redis, task, lease=lease_score(clock))
    await ask(redis, "LREM", key("default", "active"), 1, "t1")
    assert await broker.settle([settlement(task, outcome, clock.now())]) == [True]
    assert await scores(redis, "lease") == {}
    assert await invariants(redis) == []


# B5: recovery by an old list.


@pytest.mark.parametrize("worker", ["go", "ours"])
async def test_b05_a_recoverer_leaves_a_task_that_has_a_fresh_lease(
    redis: Redis, redis_url: str, other_broker: Broker, clock: FakeClock, worker: str
) -> None:
    """asynq's does not look again: it retries the task, which runs already, by the copy it has read."""
    expired = int(clock.now()) - 31
    back = settlement(message(), Requeue(), clock.now(), fence=str(expired))

    async def recovered_and_taken_again() -> None:
        assert await other_broker.settle([back]) == [True]
        await other_broker.dequeue({"default": 1})
        if worker == "go":
            await lease_to_go(redis, clock)

    await seed_active(redis, message(), lease=expired)
    told: list[str] = []
    async with closing(Slow(redis_url, clock)) as slow:
        slow.meanwhile = recovered_and_taken_again
        recoverer = a_recoverer(slow, error_handler=lambda task, error: told.append(task.id))
        await watch(recoverer, clock)
    assert told == []
    assert await listed(redis, "active") == ["t1"]
    assert (await scores(redis, "lease"))["t1"] > clock.now()
    assert await states(redis, "t1") == ["active"]
    assert await invariants(redis) == []


# B8: a crash is no failure.


@pytest.mark.parametrize("max_retry", [25, 0])
async def test_b08_a_task_whose_worker_died_has_not_failed(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock, max_retry: int
) -> None:
    """asynq counts it as a failure, and archives a task without retries that may never have begun."""
    await die_with(redis, redis_url, clock, "t1", retry=max_retry)
    before = await stored_message(redis, "t1")
    await watch(a_recoverer(broker), clock)
    assert await listed(redis, "pending") == ["t1"]
    assert await stored_message(redis, "t1") == before
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (0, 0)
    assert await invariants(redis) == []


async def test_b08_a_task_of_a_go_worker_that_died_has_not_failed_either(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """The same by its own recoverer; which of the two comes first decides."""
    await seed_active(redis, message(retry=0), lease=int(clock.now()) - 31)
    await watch(a_recoverer(broker), clock)
    assert await listed(redis, "pending") == ["t1"]
    assert (await stored_message(redis, "t1")).retried == 0


async def test_b08_only_a_task_that_kills_one_worker_after_the_other_is_archived(
    broker: FlakyBroker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """asynq lets it kill as many workers as it has retries, 25 unless told otherwise."""
    recoverer = a_recoverer(broker)
    await die_with(redis, redis_url, clock, "t1")
    await watch(recoverer, clock)
    for _ in range(2):
        clock.advance(31)
        await broker.forward(["default"])
        await die_with(redis, redis_url, clock)
        await watch(recoverer, clock)
    assert await states(redis, "t1") == ["archived"]
    stored = await stored_message(redis, "t1")
    assert stored.error_msg.startswith("poison pill: 3 workers died")
    assert stored.retried == 0
