"""B1, B9-B11 and B14: what becomes of tasks in asynq when Redis, or one of its answers, is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff

from asynqpy import ActiveTask, BrokerUnavailableError, CancelCause, Client, Task
from asynqpy.broker.broker import Broker
from tests import single
from tests.broker.factories import new_task
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_process import RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import (
    ask,
    counter,
    dump,
    invariants,
    key,
    listed,
    message,
    messages,
    seed_pending,
    states,
    stored_message,
    task_hash,
)
from tests.regressions.histories import closing
from tests.server.gate import Gate
from tests.server.parts import Workshop, a_recoverer, a_workshop, work_off

# B1: acknowledgements that are given up.


async def end_while_away(shop: Workshop, gate: Gate, broker: FlakyBroker) -> None:
    """Handlers end while Redis is away."""
    await shop.processor.tick()
    await eventually(lambda: gate.running)
    broker.down()
    gate.open()
    await eventually(lambda: not len(shop.runs))


@pytest.mark.parametrize("seconds", [10, 300], ids=["within the lease", "longer than the lease"])
async def test_b01_the_outcome_of_a_task_is_written_once_redis_is_back(
    broker: FlakyBroker, redis: Redis, clock: FakeClock, seconds: int
) -> None:
    """asynq tries again by a context that is cancelled already, in vain: the finished task runs once more."""
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, *messages(3))
    await end_while_away(shop, gate, broker)
    for _ in range(10):
        clock.advance(seconds / 10)
        with pytest.raises(BrokerUnavailableError):
            await shop.processor.tick()
    broker.up()
    clock.advance(1)
    await work_off(shop)
    await a_recoverer(broker).tick()
    await work_off(shop)
    assert sorted(gate.started) == ["t0", "t1", "t2"]
    assert await counter(redis, "processed") == 3
    assert await dump(redis, "*:t:*") == {}
    assert await invariants(redis) == []


async def test_b01_a_server_that_stops_tries_once_more(broker: FlakyBroker, redis: Redis) -> None:
    """asynq's last attempt goes by the same cancelled context."""
    gate = Gate()
    shop = a_workshop(broker, gate)
    await seed_pending(redis, message())
    await end_while_away(shop, gate, broker)
    shop.processor.stop_fetching()
    asyncio.get_running_loop().call_later(0.2, broker.up)
    await shop.processor.finish()
    assert await counter(redis, "processed") == 1
    assert await dump(redis, "*:t:*") == {}


# B9: the answer of a dequeue.


async def test_b09_tasks_that_a_lost_answer_carried_are_put_back_at_once(
    broker: FlakyBroker, redis: Redis, clock: FakeClock
) -> None:
    """asynq leaves them leased to nobody for a minute or two, and counts that as a failure."""
    worked: list[str] = []
    shop = a_workshop(broker, lambda task: worked.append(task.id))
    await seed_pending(redis, *messages(3, retry=0))
    broker.lose_answers()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    assert await states(redis, "t0", "t1", "t2") == ["active"] * 3
    broker.up()
    await work_off(shop)
    assert sorted(worked) == ["t0", "t1", "t2"]
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (3, 0)
    assert await invariants(redis) == []


class Dice(random.Random):
    """They let a single answer be lost, the next after ``loses_next`` is set: whoever sends again gets through."""

    loses_next = False

    def random(self) -> float:
        is_lost, self.loses_next = self.loses_next, False
        return 0.0 if is_lost else 1.0


@pytest.fixture
def dice() -> Dice:
    return Dice()


@pytest.fixture
async def proxy(redis_server: RedisProcess, dice: Dice) -> AsyncIterator[RedisProxy]:
    """On the way to Redis, and in the hands of the dice."""
    async with RedisProxy.before(redis_server, dice=dice) as proxy:
        proxy.drop_replies = 0.5
        yield proxy


@single.PROXIED
async def test_b09_a_dequeue_whose_answer_is_lost_is_not_sent_again(
    redis: Redis, proxy: RedisProxy, dice: Dice
) -> None:
    """asynq's client repeats it, and takes a second task, while the first lies leased to nobody."""
    await seed_pending(redis, message("t1"), message("t2"))
    async with closing(Broker(proxy.url)) as broker:
        await broker.dequeue({"default": 0})  # so that Redis knows the script
        dice.loses_next = True
        with pytest.raises(BrokerUnavailableError):
            await broker.dequeue({"default": 1})
    assert proxy.dropped == 1
    assert await listed(redis, "active") == ["t1"]
    assert await listed(redis, "pending") == ["t2"]


# B10: the answer of an enqueue.


@single.PROXIED
async def test_b10_a_task_whose_answer_was_lost_is_stored_once_and_says_so(
    redis: Redis, proxy: RedisProxy, dice: Dice
) -> None:
    """asynq's client repeats it, and takes its own success for a conflict, or a duplicate."""
    async with Client(proxy.url) as client:
        await client.enqueue(Task("first"))
        dice.loses_next = True
        with pytest.raises(BrokerUnavailableError, match="may have happened"):
            await client.enqueue(Task("email"), task_id="t1", unique=60)
    assert len(await listed(redis, "pending")) == 2
    assert await states(redis, "t1") == ["pending"]


@single.CALLERS_CLIENT
async def test_b10_a_client_of_the_callers_that_repeats_meets_no_conflict_with_itself(
    redis: Redis, proxy: RedisProxy, dice: Dice
) -> None:
    """asynq raises the conflict."""
    repeats = Redis.from_url(proxy.url, retry=RedisRetry(NoBackoff(), 3))
    async with repeats, Client(repeats) as client:
        await client.enqueue(Task("first"))
        dice.loses_next = True
        info = await client.enqueue(Task("email"), task_id="t1", unique=60)
    assert proxy.dropped == 1
    assert info.id == "t1"
    assert len(await listed(redis, "pending")) == 2


@pytest.mark.parametrize("token", ["", "mine"], ids=["own id", "id of the caller's"])
async def test_b10_the_same_call_once_more_succeeds_and_stores_nothing(
    broker: FlakyBroker, redis: Redis, token: str
) -> None:
    """asynq answers 0 or -1."""
    task = new_task(lock="asynq:{default}:unique:x:", token=token)
    assert await broker.enqueue([task]) == [None]
    before = await dump(redis)
    assert await broker.enqueue([task]) == [None]
    assert await dump(redis) == before


# B11: the shutdown.


class Stubborn:
    """A handler that, once cancelled, takes its time; it looks where its task is meanwhile."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.running = False
        self.states: list[str] = []

    async def __call__(self, task: ActiveTask) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert task.cancel_cause is CancelCause.SHUTDOWN
            await asyncio.sleep(0.1)
            self.states += await states(self._redis, task.id)
            raise


async def test_b11_a_task_goes_back_when_its_handler_has_ended_and_burns_no_retry(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq puts it back while the handler runs on: another worker runs it at the same time."""
    handler = Stubborn(redis)
    shop = a_workshop(broker, handler)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: handler.running)
    await shop.processor.drain(0)
    await shop.processor.finish()
    assert handler.states == ["active"]
    assert await states(redis, "t1") == ["pending"]
    assert (await stored_message(redis, "t1")).retried == 0
    assert await invariants(redis) == []


async def test_b11_a_task_that_redis_did_not_take_back_is_offered_again(
    broker: FlakyBroker, redis: Redis
) -> None:
    """asynq logs it and leaves: the lease ends in its time, and a retry is burned."""
    handler = Stubborn(redis)
    shop = a_workshop(broker, handler)
    await seed_pending(redis, message())
    await shop.processor.tick()
    await eventually(lambda: handler.running)
    await shop.processor.drain(0)
    broker.down()
    asyncio.get_running_loop().call_later(0.2, broker.up)
    await shop.processor.finish()
    assert await states(redis, "t1") == ["pending"]
    assert int((await task_hash(redis, "t1"))["pending_since"]) > 0
    assert await ask(redis, "EXISTS", key("default", "lease")) == 0


# B14: a hot loop.


async def test_b14_a_worker_without_redis_asks_no_more_than_twice_a_second(
    broker: FlakyBroker, clock: FakeClock
) -> None:
    """asynq asks again at once, as fast as Redis can refuse."""
    shop = a_workshop(broker, task_check_interval=0.01)
    broker.down()
    started = time.monotonic()
    shop.processor.start()

    def asked_often() -> bool:
        shop.processor.wake()  # as handlers do that end meanwhile
        return broker.calls >= 3

    await eventually(asked_often)
    assert time.monotonic() - started > 1.0
    await shop.processor.stop()
