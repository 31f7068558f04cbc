from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from asynqpy.broker.arrivals import Arrivals
from asynqpy.broker.broker import Broker
from tests.eventually import eventually
from tests.redis_state import ask, key, message, seed_pending

QUEUES = ["default", "low", "high"]


class Bell:
    def __init__(self) -> None:
        self.rang = 0

    def __call__(self) -> None:
        self.rang += 1


@pytest.fixture
def bell() -> Bell:
    return Bell()


@asynccontextmanager
async def watching(broker: Broker) -> AsyncIterator[None]:
    await broker.key_watch.open()
    job = asyncio.create_task(broker.key_watch.run())
    yield
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
    await broker.key_watch.close()


@pytest.fixture
def arrivals(broker: Broker, bell: Bell) -> Arrivals:
    return broker.arrivals(QUEUES, bell)


@pytest.fixture
async def live(broker: Broker, arrivals: Arrivals, bell: Bell) -> AsyncIterator[Broker]:
    """The broker with its watch open."""
    async with watching(broker):
        bell.rang = 0  # that it is open was news too
        yield broker


async def arm(arrivals: Arrivals, broker: Broker) -> None:
    """Known to be empty then, but for what is there."""
    arrivals.arm()
    await broker.key_watch.absent([key(queue, "pending") for queue in QUEUES])


def test_without_a_watch_every_queue_may_have_tasks(arrivals: Arrivals, bell: Bell) -> None:
    arrivals.arm()
    assert arrivals.promising == set(QUEUES)
    assert bell.rang == 0


async def test_empty_queues_promise_nothing(arrivals: Arrivals, live: Broker, bell: Bell) -> None:
    await arm(arrivals, live)
    assert arrivals.promising == set()
    assert bell.rang == 0


async def test_a_task_that_arrives_rings_once(
    arrivals: Arrivals, live: Broker, bell: Bell, redis: Redis
) -> None:
    await arm(arrivals, live)
    await seed_pending(redis, message("a", queue="low"), message("b", queue="low"))
    await eventually(lambda: bell.rang == 1)
    assert arrivals.promising == {"low"}


async def test_a_task_that_was_there_before_the_question_rings_too(
    arrivals: Arrivals, live: Broker, bell: Bell, redis: Redis
) -> None:
    await seed_pending(redis, message("a", queue="high"))
    await arm(arrivals, live)
    assert arrivals.promising == {"high"}
    assert bell.rang > 0


async def test_a_paused_queue_promises_nothing_until_it_is_resumed(
    arrivals: Arrivals, live: Broker, bell: Bell, redis: Redis
) -> None:
    await seed_pending(redis, message())
    await ask(redis, "SET", key("default", "paused"), "1")
    await arm(arrivals, live)
    assert arrivals.promising == set()
    bell.rang = 0
    await seed_pending(redis, message("another"))
    await live.key_watch.absent([key("default", "what follows")])
    assert (arrivals.promising, bell.rang) == (set(), 0)
    await ask(redis, "DEL", key("default", "paused"))
    await eventually(lambda: bell.rang == 1)
    assert arrivals.promising == {"default"}


async def test_the_end_of_the_watch_makes_every_queue_promising(
    arrivals: Arrivals, broker: Broker, bell: Bell
) -> None:
    async with watching(broker):
        bell.rang = 0
        await arm(arrivals, broker)
        assert (arrivals.promising, bell.rang) == (set(), 0)
    assert arrivals.promising == set(QUEUES)
    assert bell.rang > 0
