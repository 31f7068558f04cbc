"""What dequeues under way give out is kept until their answers are read, however long that takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from asynqpy.broker.broker import Broker, Turn
from asynqpy.broker.consuming import extend_grant_call
from asynqpy.broker.outcomes import LEASE_SECONDS, STAMPS, Grant
from asynqpy.broker.scripts import Call
from tests import redis_state as state
from tests.fake_clock import FakeClock


async def take(broker: Broker, meanwhile: Callable[[Grant], Awaitable[None]]) -> Turn:
    """Dequeue all that is pending; something happens before the answer is read."""
    (grant,) = broker.grant(["default"])
    run_all = broker._runner.run_all

    async def answer_late(
        calls: Sequence[Call[Any]], told: object = None, *, patience: float = 0.0
    ) -> list[Any]:
        """As Runner.run_all, but for the reading, which comes last."""
        broker._runner.run_all = run_all  # type: ignore[method-assign]
        raw = await run_all([replace(call, read=lambda answer: answer) for call in calls])
        await meanwhile(grant)
        return [call.read(answer) for call, answer in zip(calls, raw, strict=True)]

    broker._runner.run_all = answer_late  # type: ignore[method-assign]
    return await broker.turn([], {"default": 10}, [grant])


async def test_leases_whose_answer_nobody_has_read_are_extended_again_and_again(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    await state.seed_pending(redis, *state.messages(3))
    given_until = int(clock.now()) + LEASE_SECONDS

    async def meanwhile(grant: Grant) -> None:
        for _ in range(4):
            clock.advance(12.5)
            await broker.extend_grants([grant])
            until = int(clock.now()) + LEASE_SECONDS
            score = until + grant.stamp / STAMPS
            assert await state.scores(redis, "lease") == dict.fromkeys(("t0", "t1", "t2"), score)
            assert (grant.granted_until, grant.expires_at) == (given_until, until)

    turn = await take(broker, meanwhile)
    leases = [delivery.lease for delivery in turn.deliveries]
    assert [lease.expires_at for lease in leases] == [given_until + 50] * 3
    clock.advance(1)
    assert await broker.extend_lease(leases) == []
    assert await state.invariants(redis) == []


async def test_grants_of_a_turn_have_one_stamp_and_the_next_ones_another(broker: Broker) -> None:
    first, second = broker.grant(["default", "low"]), broker.grant(["default", "low"])
    assert [grant.queue for grant in first] == ["default", "low"]
    assert len({grant.stamp for grant in first}) == 1
    assert first[0].stamp != second[0].stamp
    assert broker.grant([]) == []


async def test_what_is_given_out_twice_by_one_grant_is_extended_by_either_score(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """As when Redis does not know the script, and is sent it once more."""
    (grant,) = broker.grant(["default"])
    for task in state.messages(2):
        await state.seed_pending(redis, task)
        await broker.turn([], {"default": 1}, [grant])
        clock.advance(5)
        await broker.extend_grants([grant])
    score = int(clock.now()) + LEASE_SECONDS + grant.stamp / STAMPS
    assert await state.scores(redis, "lease") == {"t0": score, "t1": score}


async def test_nothing_but_what_was_granted_is_extended(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    (grant,) = broker.grant(["default"])
    until = int(clock.now()) + LEASE_SECONDS
    others = {"of Go's": until, "next": until + (grant.stamp + 1) / STAMPS}
    others["older"] = until - 5 + grant.stamp / STAMPS
    for task_id, score in others.items():
        await state.seed_active(redis, state.message(task_id), lease=repr(score))
    low = state.message("low", queue="low")
    await state.seed_active(redis, low, lease=repr(until + grant.stamp / STAMPS))
    before = await state.dump(redis)
    clock.advance(5)
    await broker.extend_grants([grant])
    assert await state.dump(redis) == before
    await state.seed_pending(redis, state.message("mine"))
    await broker.turn([], {"default": 1}, [grant])
    await broker.extend_grants([grant])
    extended = int(clock.now()) + LEASE_SECONDS + grant.stamp / STAMPS
    assert await state.scores(redis, "lease") == others | {"mine": extended}
    assert await state.scores(redis, "lease", "low") == {"low": until + grant.stamp / STAMPS}


async def test_grant_that_has_given_out_nothing_keeps_the_expiry_it_will_give(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    """A dequeue that Redis has yet to see writes the old one."""
    (grant,) = broker.grant(["default"])
    given_until = grant.expires_at
    clock.advance(20)
    await broker.extend_grants([grant])
    assert grant.expires_at == given_until
    assert await state.dump(redis) == {}
    await state.seed_pending(redis, state.message())
    turn = await broker.turn([], {"default": 1}, [grant])
    assert [delivery.lease.expires_at for delivery in turn.deliveries] == [given_until]


async def test_one_queues_refusal_leaves_the_grants_of_the_others_alone(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    refused, good = broker.grant(["low", "default"])
    await state.seed_pending(redis, state.message())
    await broker.turn([], {"default": 1}, [good])
    await state.ask(redis, "SET", state.key("low", "lease"), "noise")
    given_until = good.expires_at
    clock.advance(5)
    await broker.extend_grants([refused, good])
    assert (refused.expires_at, good.expires_at) == (given_until, given_until + 5)


async def test_extension_whose_answer_was_lost_is_repeated_with_the_same_answer(
    broker: Broker, redis: Redis
) -> None:
    grants = broker.grant(["default"])
    await state.seed_pending(redis, *state.messages(3))
    await broker.turn([], {"default": 3}, grants)
    call = extend_grant_call(grants[0], grants[0].expires_at + 5)
    answers = [await broker._runner.run(call)]
    before = await state.dump(redis)
    answers.append(await broker._runner.run(call))
    assert answers == [3, 3]
    assert await state.dump(redis) == before


# Dequeues whose answers were lost.


async def lose(broker: Broker, *ids: str, redis: Redis) -> Grant:
    """A grant under which these tasks were given out, and nobody knows."""
    (grant,) = broker.grant(["default"])
    await state.seed_pending(redis, *(state.message(task_id) for task_id in ids))
    await broker.turn([], {"default": len(ids)}, [grant])
    return grant


async def test_what_a_lost_dequeue_took_is_the_next_to_run(broker: Broker, redis: Redis) -> None:
    grant = await lose(broker, "t0", "t1", "t2", redis=redis)
    await state.seed_pending(redis, state.message("t3"))
    assert await broker.requeue_grants([grant]) == 3
    assert sorted((await state.listed(redis, "pending"))[:3]) == ["t0", "t1", "t2"]
    assert (await state.listed(redis, "pending"))[3] == "t3"
    assert (await state.stored_message(redis, "t0")).retried == 0
    fields = await state.task_hash(redis, "t0")
    assert fields.keys() == {"msg", "state", "pending_since"}
    assert await state.invariants(redis) == []
    before = await state.dump(redis)
    assert await broker.requeue_grants([grant]) == 0
    assert await state.dump(redis) == before


async def test_what_was_extended_meanwhile_is_put_back_too(
    broker: Broker, clock: FakeClock, redis: Redis
) -> None:
    grant = await lose(broker, "t0", redis=redis)
    for _ in range(3):
        clock.advance(5)
        await broker.extend_grants([grant])
    grant.expires_at = grant.granted_until  # as if the answers of the extensions had been lost too
    assert await broker.requeue_grants([grant]) == 1


async def test_tasks_of_another_server_with_the_same_stamp_and_second_are_left_alone(
    broker: Broker, redis: Redis
) -> None:
    grant = await lose(broker, "t0", redis=redis)
    await state.ask(redis, "HSET", state.task_key("default", "t0"), "owner", "another")
    before = await state.dump(redis)
    assert await broker.requeue_grants([grant]) == 0
    assert await state.dump(redis) == before


async def test_what_a_lost_dequeue_took_without_a_message_is_left_for_the_recoverer(
    broker: Broker, redis: Redis
) -> None:
    grant = await lose(broker, "t0", redis=redis)
    await state.ask(redis, "DEL", state.task_key("default", "t0"))
    assert await broker.requeue_grants([grant]) == 0
    assert await state.listed(redis, "active") == ["t0"]
    assert not await state.ask(redis, "EXISTS", state.task_key("default", "t0"))
