from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from asynqpy.server.canceler import Canceler
from asynqpy.server.runs import Run, Runs
from asynqpy.task import CancelCause
from tests import single
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.redis_state import ask
from tests.server.making import a_message, a_run, running

CHANNEL = "asynq:cancel"


async def sleeps() -> None:
    await asyncio.Event().wait()


async def subscribers(redis: Redis) -> int:
    _, count = await ask(redis, "PUBSUB", "NUMSUB", CHANNEL)
    return int(count)


@asynccontextmanager
async def listening(broker: FlakyBroker, redis: Redis, *runs: Run) -> AsyncIterator[Canceler]:
    """A canceler that has subscribed, for these runs."""
    held = Runs()
    for run in runs:
        held.add(running(run, sleeps))
    canceler = Canceler(broker=broker, runs=held)
    canceler.start()
    await eventually(lambda: subscribers(redis))
    yield canceler
    await canceler.stop()
    jobs = [run.job for run in runs if run.job is not None]
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


async def test_published_id_cancels_the_run_of_that_task_and_no_other(
    broker: FlakyBroker, redis: Redis
) -> None:
    mine, other = a_run(a_message(id="t1")), a_run(a_message(id="t2"))
    async with listening(broker, redis, mine, other):
        await ask(redis, "PUBLISH", CHANNEL, "t1")
        await eventually(lambda: mine.task.cancel_cause is CancelCause.REQUESTED)
        assert other.task.cancel_cause is None


async def test_unknown_and_unreadable_ids_are_ignored(broker: FlakyBroker, redis: Redis) -> None:
    mine = a_run()
    async with listening(broker, redis, mine):
        for junk in (b"nobody", b"\xff\xfe", b""):
            await ask(redis, "PUBLISH", CHANNEL, junk)
        await ask(redis, "PUBLISH", CHANNEL, "t1")
        await eventually(lambda: mine.task.cancel_cause is CancelCause.REQUESTED)


@single.COUNTED
async def test_subscription_whose_connection_was_killed_is_renewed(
    broker: FlakyBroker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.service._FIRST_BACK_OFF", 0.01)
    mine = a_run()
    async with listening(broker, redis, mine):
        assert await ask(redis, "CLIENT", "KILL", "TYPE", "pubsub") == 1
        await eventually(lambda: cancel_comes_through(redis, mine))


async def cancel_comes_through(redis: Redis, run: Run) -> bool:
    """Asked again and again: what is published while nobody is subscribed is lost."""
    await ask(redis, "PUBLISH", CHANNEL, run.message.id)
    return run.task.cancel_cause is CancelCause.REQUESTED


async def test_stopped_canceler_leaves_no_subscription(broker: FlakyBroker, redis: Redis) -> None:
    async with listening(broker, redis):
        pass
    await eventually(lambda: is_unheard(redis))


async def is_unheard(redis: Redis) -> bool:
    return not await subscribers(redis)
