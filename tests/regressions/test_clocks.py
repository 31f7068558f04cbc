"""B13: clocks that disagree."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from asynqpy.clock import Clock
from tests import single
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.redis_process import RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import (
    counter,
    dump,
    listed,
    message,
    messages,
    scores,
    seed_active,
    seed_pending,
    seed_scheduled,
    states,
)
from tests.regressions.histories import closing
from tests.server.gate import Gate
from tests.server.parts import a_recoverer, a_workshop, work_off
from tests.server.servers import a_server
from tests.topologies.common import CommonRedis


def clock_of_a_host(monkeypatch: pytest.MonkeyPatch, skew: float) -> Clock:
    """The clock of a host whose wall clock is wrong by so many seconds."""
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: now + skew)
        return Clock()


@pytest.fixture(params=[-120.0, 120.0], ids=["behind", "ahead"])
async def skewed(
    request: pytest.FixtureRequest, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FlakyBroker]:
    """The broker of a host whose clock is two minutes wrong, before its first word with Redis."""
    broker = FlakyBroker(redis_url, clock_of_a_host(monkeypatch, request.param))
    assert abs(broker.clock.now() - time.time()) > 100
    yield broker
    await broker.close()


def redis_time(redis_server: CommonRedis) -> int:
    return int(redis_server.ask("TIME")[0])


async def test_b13_leases_are_written_by_the_clock_of_redis(
    skewed: FlakyBroker, redis: Redis, redis_server: CommonRedis
) -> None:
    """asynq writes them by the host's: two minutes behind, each is over before it begins."""
    gate = Gate()
    shop = a_workshop(skewed, gate)
    await seed_pending(redis, message())
    await shop.processor.tick()
    left = (await scores(redis, "lease"))["t1"] - redis_time(redis_server)
    assert 28 < left < 31.5
    gate.open()
    await eventually(lambda: not len(shop.runs))
    await work_off(shop)
    assert await counter(redis, "processed") == 1


async def test_b13_a_recoverer_goes_by_the_clock_of_redis(
    skewed: FlakyBroker, redis: Redis, redis_server: CommonRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq's goes by the host's: two minutes ahead, it takes every task that runs from its worker."""
    now = redis_time(redis_server)
    await seed_active(redis, message("ours"), lease=now + 29.5)
    await seed_active(redis, message("go"), lease=now + 29)
    await seed_active(redis, message("go-just-over"), lease=now - 20)
    await seed_active(redis, message("gone"), lease=now - 99.5)
    recoverer = a_recoverer(skewed)
    await recoverer.tick()
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    await recoverer.tick()
    assert await listed(redis, "pending") == ["gone"]
    assert await states(redis, "ours", "go", "go-just-over") == ["active"] * 3


async def test_b13_a_delayed_task_is_due_by_the_clock_of_redis(
    skewed: FlakyBroker, redis: Redis, redis_server: CommonRedis
) -> None:
    """asynq's forwarder goes by the host's too."""
    now = redis_time(redis_server)
    await seed_scheduled(redis, message("due"), at=now - 1)
    await seed_scheduled(redis, message("later"), at=now + 60)
    await skewed.keep_clock()
    await skewed.forward(["default"])
    assert await states(redis, "due", "later") == ["pending", "scheduled"]


async def test_b13_a_server_that_has_not_met_redis_yet_takes_and_recovers_nothing(
    redis: Redis, redis_server: CommonRedis, skewed: FlakyBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such moment in asynq, which goes by the host's clock for good."""
    await seed_active(redis, message("ours"), lease=redis_time(redis_server) + 29.5)
    await seed_pending(redis, message("new"))
    before = await dump(redis)
    shop, recoverer = a_workshop(skewed), a_recoverer(skewed)

    async def refuse() -> None:
        raise ConnectionError("no clock")

    monkeypatch.setattr(skewed, "keep_clock", refuse)
    for tick in (shop.processor.tick, recoverer.tick):
        with pytest.raises(ConnectionError):
            await tick()
    assert await dump(redis) == before


@pytest.mark.parametrize("ahead", ["worker", "recoverer"])
async def test_b13_hosts_that_are_four_minutes_apart_leave_each_others_tasks_alone(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, ahead: str
) -> None:
    """With asynq the one that is ahead recovers whatever the other has just begun, again and again."""
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    skew = 120.0 if ahead == "worker" else -120.0
    worker = FlakyBroker(redis_url, clock_of_a_host(monkeypatch, skew), owner="host:1:worker")
    other = FlakyBroker(redis_url, clock_of_a_host(monkeypatch, -skew))
    gate = Gate()
    async with closing(worker), closing(other):
        shop, recoverer = a_workshop(worker, gate), a_recoverer(other)
        await seed_pending(redis, *messages(5))
        await shop.processor.tick()
        for _ in range(3):
            await recoverer.tick()
        assert len(await listed(redis, "active")) == 5
        gate.open()
        await eventually(lambda: not len(shop.runs))
        await work_off(shop)
    assert len(gate.started) == await counter(redis, "processed") == 5


@single.PROXIED
async def test_b13_a_server_that_starts_before_redis_waits_for_its_clock(
    redis: Redis, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In asynq no server ever asks for it."""
    gate, now = Gate(), redis_time(redis_server)
    await seed_pending(redis, message("new"))
    await seed_active(redis, message("runs"), lease=now + 29.5)
    async with RedisProxy.before(redis_server) as proxy:
        proxy.refuses = True
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: now + 120.0)
            server = a_server(proxy.url)
        async with server.running(gate):
            await eventually(lambda: proxy.connections >= 3)
            proxy.refuses = False
            await eventually(lambda: gate.started, within=10)
            left = (await scores(redis, "lease"))["new"] - redis_time(redis_server)
            # By the clock of its host it would be 150 s.
            assert 25 < left < 35
            assert gate.started == ["new"]
            gate.open()
