from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker import key_watch
from asynqpy.broker.cluster_watch import ClusterWatch
from asynqpy.broker.connection import RedisSource
from asynqpy.client import Client
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.handler import Handler
from asynqpy.server.server import Server
from asynqpy.server.waker import Waker
from asynqpy.task import ActiveTask, Task
from tests import single
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.raw_redis import raw_client
from tests.redis_process import RedisProcess, start_redis
from tests.redis_proxy import RedisProxy
from tests.redis_state import ask, key, message, seed_pending, seed_scheduled
from tests.topologies.cluster import start_cluster
from tests.topologies.common import CommonRedis
from tests.topologies.moving_slot import MovingSlot

#: Polls so rare that a task which comes in time was not found by one.
RARELY = 300.0


class Work:
    """A handler that remembers what it ran."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def __call__(self, task: ActiveTask) -> None:
        self.done.append(task.id)


@pytest.fixture
def work() -> Work:
    return Work()


@asynccontextmanager
async def waiting(redis: RedisSource, work: Handler, **options: Any) -> AsyncIterator[Server]:
    """A server that has nothing to do, knows it, and hardly polls."""
    rare = {"task_check_interval": RARELY, "delayed_task_check_interval": RARELY}
    server = Server(redis, **{**rare, **options})
    async with server.running(work):
        await eventually(lambda: not server._processor._arrivals.promising)
        yield server


async def until(done: list[str], count: int) -> None:
    await eventually(lambda: len(done) == count)


async def commands(redis_url: str, seconds: float) -> Counter[str]:
    """What clients send to Redis in so many seconds, without what scripts do."""
    sent: Counter[str] = Counter()

    async def read() -> None:
        async with raw_client(redis_url) as client, client.monitor() as monitor:
            async for line in monitor.listen():
                if line["client_type"] != "lua":
                    sent[line["command"].split()[0].upper()] += 1

    reading = asyncio.create_task(read())
    await asyncio.wait([reading], timeout=seconds)
    reading.cancel()
    await asyncio.wait([reading])
    return sent


async def test_a_task_that_arrives_wakes_an_idle_server(redis_url: str, work: Work) -> None:
    async with waiting(redis_url, work), Client(redis_url) as client:
        for count in range(1, 4):
            await client.enqueue(Task("email"), task_id=f"t{count}")
            await until(work.done, count)


async def test_a_task_wakes_a_server_that_is_partly_busy(redis_url: str) -> None:
    gate = asyncio.Event()
    done: list[str] = []

    async def handler(task: ActiveTask) -> None:
        if task.id == "long":
            await gate.wait()
        done.append(task.id)

    async with waiting(redis_url, handler, concurrency=2), Client(redis_url) as client:
        await client.enqueue(Task("email"), task_id="long")
        for n in range(5):
            await client.enqueue(Task("email"), task_id=f"t{n}")
            await until(done, n + 1)
        gate.set()


@single.COUNTED
async def test_of_many_queues_only_that_of_the_task_is_asked(redis_url: str, work: Work) -> None:
    queues = [f"q{n}" for n in range(100)]
    async with (
        waiting(redis_url, work, queues=queues) as server,
        Client(redis_url) as client,
        raw_client(redis_url) as redis,
    ):
        await eventually(lambda: not server._processor._arrivals.promising)
        await ask(redis, "CONFIG", "RESETSTAT")
        await client.enqueue(Task("email"), queue="q42", task_id="t")
        await eventually(lambda: work.done == ["t"])
        statistics = await ask(redis, "INFO", "commandstats")
        assert statistics["cmdstat_evalsha"]["calls"] < 20


@single.COUNTED
async def test_a_paused_queue_costs_nothing_and_resuming_it_wakes(
    redis_url: str, redis: Redis, work: Work
) -> None:
    await ask(redis, "SET", key("default", "paused"), "1")
    await seed_pending(redis, message("a"), message("b"))
    async with waiting(redis_url, work, task_check_interval=0.02):
        sent = await commands(redis_url, 2.0)
        assert sent["EVALSHA"] <= 4, sent  # a heartbeat may fall into it
        assert work.done == []
        await ask(redis, "DEL", key("default", "paused"))
        await eventually(lambda: sorted(work.done) == ["a", "b"])


@single.COUNTED
async def test_an_idle_server_sends_a_command_a_second_at_most(redis_url: str, work: Work) -> None:
    async with waiting(redis_url, work, queues=[f"q{n}" for n in range(20)]):
        await commands(redis_url, 2.5)  # what a server does once, at its start
        sent = await commands(redis_url, 5.5)
    del sent["MONITOR"]
    # Two beats of the heart, at the most, and of the others what may fall between them.
    assert sent.total() <= 10, sent


async def test_a_delayed_task_is_on_time_though_nobody_polls(redis_url: str, work: Work) -> None:
    async with waiting(redis_url, work), Client(redis_url) as client:
        await client.enqueue(Task("email"), task_id="late", process_in=600)
        await client.enqueue(Task("email"), task_id="soon", process_in=1.5)
        await eventually(lambda: work.done == ["soon"], within=10)


@single.COUNTED
async def test_a_stream_of_delayed_tasks_keeps_the_forwarder_no_busier_than_one(
    redis_url: str, redis: Redis, work: Work
) -> None:
    async with waiting(redis_url, work):
        await ask(redis, "CONFIG", "RESETSTAT")
        started = time.monotonic()
        for n in range(500):
            await seed_scheduled(redis, message(f"t{n}"), at=time.time() + 600)
        passes = 2 + (time.monotonic() - started) / 0.25
        statistics = await ask(redis, "INFO", "commandstats")
        ranges = statistics.get("cmdstat_zrangebyscore", {"calls": 0})["calls"]
        assert ranges <= 2 * passes + 4  # scheduled and retry; a look for leases may fall into it


async def test_after_the_line_was_cut_the_server_is_woken_again(
    redis_url: str, redis_server: CommonRedis, work: Work
) -> None:
    async with waiting(redis_url, work) as server, Client(redis_url) as client:
        redis_server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await eventually(lambda: not server._broker.key_watch.is_live)
        await eventually(lambda: server._broker.key_watch.is_live, within=10)
        await client.enqueue(Task("email"), task_id="t")
        await eventually(lambda: work.done == ["t"], within=10)


@single.PROXIED
async def test_a_line_that_is_dead_at_the_other_end_is_replaced(
    redis_server: RedisProcess, redis_url: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = key_watch._CHECK_AFTER
    monkeypatch.setattr(key_watch, "_CHECK_AFTER", 0.1)
    async with RedisProxy.before(redis_server) as proxy, waiting(proxy.url, work) as server:
        proxy.swallows_replies = True
        await eventually(lambda: not server._broker.key_watch.is_live, within=15)
        # A line that is checked all the time has to be quick all the time.
        monkeypatch.setattr(key_watch, "_CHECK_AFTER", usual)
        proxy.swallows_replies = False
        proxy.cut()
        await eventually(lambda: server._broker.key_watch.is_live, within=15)
        async with Client(redis_url) as client:
            await client.enqueue(Task("email"), task_id="t")
        await eventually(lambda: work.done == ["t"], within=15)


async def test_after_a_fail_over_that_left_the_line_behind_tasks_are_found(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "_PROVE_AFTER", 1.0)
    with start_redis() as first, start_redis() as second:
        async with RedisProxy(first.port) as proxy, waiting(proxy.url, work):
            proxy.redis_port = second.port
            for client in first.ask("CLIENT LIST", "TYPE", "normal"):
                if "t" not in client["flags"] and client["cmd"] != "client|list":
                    first.ask("CLIENT", "KILL", "ID", client["id"])
            async with Client(second.url) as client:
                await client.enqueue(Task("email"), task_id="t")
            await eventually(lambda: work.done == ["t"], within=20)


# Where Redis does not tell.


class DeafProxy(RedisProxy):
    """Knows no RESP3, and hangs up on whoever wants it."""

    refused = 0

    def _passes_request(self, link: Any, data: bytes) -> bool:
        if b"HELLO" not in data:
            return super()._passes_request(link, data)
        self.refused += 1
        self.cut()
        return False


@pytest.fixture
async def deaf(redis_server: RedisProcess, redis_url: str) -> AsyncIterator[DeafProxy]:
    async with DeafProxy.before(redis_server) as proxy:
        yield proxy


@single.OVERHEARD
async def test_behind_a_proxy_without_resp3_tasks_are_found_by_polling(
    deaf: DeafProxy, redis_url: str, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asynqpy")
    server = Server(deaf.url, task_check_interval=0.2, delayed_task_check_interval=0.2)
    async with server.running(work), Client(redis_url) as client:
        await eventually(lambda: deaf.refused)
        await client.enqueue(Task("email"), task_id="t")
        await client.enqueue(Task("email"), task_id="delayed", process_in=1)
        await eventually(lambda: sorted(work.done) == ["delayed", "t"], within=10)
        assert not server._broker.key_watch.is_live
    assert len([it for it in caplog.messages if "found by polling" in it]) == 1


async def test_where_the_acl_denies_it_tasks_are_found_by_polling_which_is_told_once(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asynqpy")
    with start_redis() as redis_server:
        rights = ("on", ">secret", "~asynq*", "&*", "+@all", "-client")
        redis_server.ask("ACL", "SETUSER", "worker", *rights)
        url = f"redis://worker:secret@{redis_server.address}/0"
        server = Server(url, task_check_interval=0.2)
        async with server.running(work), Client(redis_server.url) as client:
            await client.enqueue(Task("email"), task_id="t")
            await eventually(lambda: work.done == ["t"])
            await eventually(lambda: "found by polling" in caplog.text)
    (line,) = (it for it in caplog.records if "found by polling" in it.getMessage())
    assert line.levelno == logging.INFO
    assert "permissions" in line.getMessage()


async def test_a_refusal_is_told_once_and_tried_again_ever_more_slowly(
    broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asynqpy")
    await broker.ping()
    monkeypatch.setattr(key_watch, "_PROOF_TIMEOUT", 0.0)
    waker = Waker(broker=broker)
    assert [await waker.tick() for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("end", [BrokerError("no"), BrokerUnavailableError("away")])
async def test_refusals_are_forgotten_when_a_line_has_held(
    broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch, end: BrokerError
) -> None:
    now = 100.0

    async def refuse() -> None:
        raise BrokerError("no")

    async def hold() -> None:
        nonlocal now
        now += 61
        raise end

    async def open_it() -> None:
        pass

    monkeypatch.setattr("asynqpy.server.waker.time.monotonic", lambda: now)
    monkeypatch.setattr(broker.key_watch, "open", refuse)
    waker = Waker(broker=broker)
    assert [await waker.tick() for _ in range(3)] == [2.0, 4.0, 8.0]
    monkeypatch.setattr(broker.key_watch, "open", open_it)
    monkeypatch.setattr(broker.key_watch, "run", hold)
    with suppress(BrokerUnavailableError):
        await waker.tick()
    assert waker._refusals <= 1


async def test_a_task_on_any_node_of_a_cluster_wakes_an_idle_server(work: Work) -> None:
    queues = [f"q{n}" for n in range(12)]
    with start_cluster() as cluster:
        assert len({cluster.primary_of_queue(queue).port for queue in queues}) == 3
        async with waiting(cluster.url, work, queues=queues), Client(cluster.url) as client:
            for count, queue in enumerate(queues, start=1):
                await client.enqueue(Task("email"), queue=queue)
                await until(work.done, count)


async def test_where_the_slot_of_a_queue_has_gone_its_tasks_wake_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "_CHECK_AFTER", 0.2)
    with start_cluster() as cluster:
        source = cluster.primary_of_queue("default")
        target, other = (node for node in cluster.nodes if node is not source)
        async with waiting(cluster.url, work) as server, Client(cluster.url) as client:
            watch = server._broker.key_watch
            assert isinstance(watch, ClusterWatch)
            changes = watch._cluster.changes
            move = MovingSlot(cluster.slot_of("{default}"), source, target, [other])
            move.begin()
            move.end()
            await eventually(lambda: watch._changes > changes)
            await eventually(lambda: not server._processor._arrivals.promising)
            await client.enqueue(Task("email"))
            await until(work.done, 1)


async def test_the_watch_ends_with_the_server(redis_url: str, work: Work) -> None:
    async with waiting(redis_url, work) as server:
        assert server._broker.key_watch.is_live
    assert not server._broker.key_watch.is_live
