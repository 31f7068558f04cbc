from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker import sentinels
from asynqpy.broker.circuit_breaker import CircuitBreaker
from asynqpy.broker.connection import Connection
from asynqpy.broker.master_watch import MasterWatch
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.broker.sentinel_line import View
from asynqpy.errors import BrokerUnavailableError
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess, start_redis
from tests.redis_proxy import RedisProxy
from tests.topologies.sentinel import MASTER, start_sentinel

OLD, NEW = Endpoint("10.0.0.1", 6379), Endpoint("10.0.0.2", 6379)

#: Waits at the master for as long as it gets.
WAITING = [("BLPOP", "nothing", "0")]


@pytest.fixture(scope="module")
def masters() -> Iterator[list[RedisProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(start_redis()) for _ in range(2)]


@dataclass
class Scene:
    """Two sentinels, each behind a proxy: the second, which is hidden at first, tells the later decision."""

    old: RedisProcess
    new: RedisProcess
    ways: list[RedisProxy]

    @property
    def url(self) -> str:
        addresses = ",".join(f"{HOST}:{way.port}" for way in self.ways)
        return f"redis-sentinel://:s3cret@{addresses}/0?master={MASTER}&sentinel_password="

    def switch(self) -> None:
        self.ways[1].refuses = False

    def hide_sentinels(self) -> None:
        for way in self.ways:
            way.refuses = True
            way.cut()


@pytest.fixture
async def scene(
    masters: list[RedisProcess], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    monkeypatch.setattr(sentinels, "_LOOK_AFTER", 0.2)
    old, new = masters
    with ExitStack() as stack:
        watchmen = [
            stack.enter_context(
                start_sentinel(it.port, MASTER, 1, f"sentinel config-epoch {MASTER} {epoch}")
            )
            for epoch, it in enumerate(masters, 1)
        ]
        async with RedisProxy(watchmen[0].port) as first, RedisProxy(watchmen[1].port) as second:
            second.refuses = True
            yield Scene(old, new, [first, second])


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Connection]:
    # The masters want no password.
    connection = Connection.open(url.replace(":s3cret@", ""))
    yield connection
    await connection.close()


async def port_of_master(connection: Connection) -> int:
    (answer,) = await connection.exchange.send([("CONFIG", "GET", "port")])
    # redis-py makes a mapping of it, or Redis does, or nobody.
    return int(answer[1] if isinstance(answer, list) else next(iter(answer.values())))


async def is_at(connection: Connection, server: RedisProcess) -> bool:
    return await port_of_master(connection) == server.port


def watch_of(connection: Connection) -> MasterWatch:
    watch: MasterWatch = connection._plan.watch  # type: ignore[union-attr]
    return watch


def learn(watch: MasterWatch, view: View) -> None:
    assert watch.learn(view, instead_of=watch.known)


def tasks_of_ours() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith("asynqpy:")]


async def until_waiting(server: RedisProcess, number: int = 1) -> None:
    await eventually(lambda: server.ask("INFO", "clients")["blocked_clients"] == number)


class Follower:
    """On a loop of its own, in a thread; what it was told to leave is in ``left``, with the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, is_connected: bool = False) -> None:
        self.breaker = CircuitBreaker("test")
        self.loop = loop
        self.left: list[tuple[Endpoint, int]] = []
        self._is_connected = is_connected

    def leads_to(self, address: Endpoint) -> bool:
        return self._is_connected and address == OLD

    def hang_up(self, address: Endpoint) -> None:
        self.left.append((address, threading.get_ident()))


async def test_connections_of_all_threads_leave_the_old_master_each_on_its_own_loop() -> None:
    elsewhere = asyncio.new_event_loop()
    thread = threading.Thread(target=elsewhere.run_forever)
    thread.start()
    here = Follower(asyncio.get_running_loop())
    there, nowhere = Follower(elsewhere), Follower(None)
    watch = MasterWatch()
    for follower in (here, there, nowhere):
        watch.follow(follower)
    learn(watch, View(1, OLD, False))
    learn(watch, View(2, OLD, False))
    assert not here.breaker.is_open
    learn(watch, View(3, NEW, False))
    await eventually(lambda: here.left and there.left)
    elsewhere.call_soon_threadsafe(elsewhere.stop)
    thread.join()
    elsewhere.close()
    assert here.left == [(OLD, threading.get_ident())]
    assert there.left == [(OLD, thread.ident)]
    assert nowhere.left == []
    assert (here.breaker.is_open, here.breaker.outages) == (True, 1)
    learn(watch, View(4, OLD, False))  # the other loop is closed, and in nobody's way
    assert watch.known == View(4, OLD, False)


def test_what_was_found_beside_a_view_of_the_past_is_refused() -> None:
    watch = MasterWatch()
    learn(watch, View(2, NEW, False))
    assert not watch.learn(View(1, OLD, False), instead_of=None)
    assert watch.known == View(2, NEW, False)


def test_a_switch_that_several_tell_of_is_news_once_and_the_next_one_again() -> None:
    breaker = CircuitBreaker("test")
    for epoch, outages in ((1, 1), (1, 1), (3, 2)):
        follower, watch = Follower(None), MasterWatch()
        follower.breaker = breaker
        watch.follow(follower)
        learn(watch, View(epoch, OLD, False))
        learn(watch, View(epoch + 1, NEW, False))
        assert breaker.outages == outages


def test_an_address_is_in_use_while_anything_is_connected_to_it() -> None:
    watch = MasterWatch()
    assert watch.address_in_use() is None
    learn(watch, View(1, OLD, False))
    assert watch.address_in_use() is None
    follower = Follower(None, is_connected=True)
    watch.follow(follower)
    assert watch.address_in_use() == OLD
    learn(watch, View(2, NEW, False))
    assert watch.address_in_use() is None


async def test_when_the_master_has_moved_calls_under_way_end_and_the_next_go_to_the_new_one(
    scene: Scene,
) -> None:
    async with opened(scene.url) as connection:
        assert await is_at(connection, scene.old)
        call = asyncio.ensure_future(connection.exchange.send(WAITING))
        await until_waiting(scene.old)
        assert await is_at(connection, scene.old)  # and is idle now
        scene.switch()
        with pytest.raises(RedisConnectionError):
            await call
        assert connection.breaker.is_open
        assert connection.breaker.outages == 1
        assert await is_at(connection, scene.new)
        await until_waiting(scene.old, 0)


async def test_a_call_that_is_connecting_to_a_frozen_master_ends_too(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    async with opened(scene.url) as connection, opened(scene.url) as other:
        scene.old.pause()
        call = asyncio.ensure_future(connection.exchange.send([("PING",)]))
        await eventually(lambda: watch_of(connection).known)
        await asyncio.sleep(0.05)
        assert not call.done()
        began = loop.time()
        scene.switch()
        with pytest.raises(RedisConnectionError):
            await call
        assert loop.time() - began < 4
        assert await is_at(connection, scene.new)
        assert await is_at(other, scene.new)
        scene.old.resume()


async def test_a_subscriber_is_dropped_too(scene: Scene) -> None:
    async with opened(scene.url) as connection:
        line = await connection.one_node()
        assert isinstance(line.client, Redis)
        pubsub = line.client.pubsub()
        await pubsub.subscribe("channel")
        await pubsub.get_message(timeout=5)
        listening = asyncio.ensure_future(pubsub.get_message(timeout=60))
        await asyncio.sleep(0)
        assert await is_at(connection, scene.old)
        scene.switch()
        with pytest.raises(RedisConnectionError):
            await listening
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await line.close()


async def test_calls_through_a_client_of_the_callers_end_too(scene: Scene) -> None:
    manager = Sentinel([(HOST, way.port) for way in scene.ways])  # type: ignore[no-untyped-call]
    theirs = manager.master_for(MASTER)
    connection = Connection.open(theirs)
    sibling = connection.sibling()
    assert await is_at(connection, scene.old)
    assert await is_at(sibling, scene.old)
    call = asyncio.ensure_future(connection.exchange.send(WAITING))
    await until_waiting(scene.old)
    assert connection.leads_to(Endpoint(HOST, scene.old.port))
    scene.switch()
    # How often it tries again is its own matter, and the sentinels that redis-py asks differ.
    await until_waiting(scene.old, 0)
    call.cancel()
    await asyncio.wait([call])
    await sibling.close()
    for client in (theirs, *manager.sentinels):
        await client.aclose()


async def test_while_no_sentinel_answers_what_is_connected_goes_on_and_may_have_more(
    scene: Scene,
) -> None:
    async with opened(scene.url) as connection:
        assert await is_at(connection, scene.old)
        scene.hide_sentinels()
        await asyncio.sleep(0.3)
        ports = await asyncio.gather(*(port_of_master(connection) for _ in range(5)))
        assert set(ports) == {scene.old.port}
        assert not connection.breaker.is_open
        connection.hang_up(Endpoint(HOST, scene.old.port))
        with pytest.raises(MasterNotFoundError) as caught:
            await port_of_master(connection)
        for way in scene.ways:
            assert f"{HOST}:{way.port}" in str(caught.value)


async def test_no_secret_is_in_the_error_when_no_sentinel_answers(scene: Scene) -> None:
    scene.hide_sentinels()
    connection = Connection.open(scene.url.replace("sentinel_password=", "sentinel_password=hush"))
    with pytest.raises(MasterNotFoundError) as caught:
        await port_of_master(connection)
    await connection.close()
    assert "s3cret" not in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_connections_on_one_loop_share_their_lines_until_the_last_is_closed(
    scene: Scene,
) -> None:
    async with opened(scene.url) as connection:
        siblings = [connection.sibling() for _ in range(3)]
        await asyncio.gather(*map(port_of_master, [connection, *siblings]))
        assert scene.ways[0].connections == 1
        assert sorted(tasks_of_ours()) == sorted(
            [
                f"asynqpy:sentinels:{MASTER}",
                *(f"asynqpy:sentinel:{HOST}:{way.port}" for way in scene.ways),
            ]
        )
        for sibling in siblings:
            await sibling.close()
            await sibling.close()
        assert await is_at(connection, scene.old)
        assert watch_of(connection)._sentinels
    assert tasks_of_ours() == []
    with pytest.raises(RedisConnectionError):
        await port_of_master(connection)
    assert tasks_of_ours() == []


async def test_a_close_that_is_cancelled_leaves_nothing_behind(scene: Scene) -> None:
    connection = Connection.open(scene.url.replace(":s3cret@", ""))
    await port_of_master(connection)
    closing = asyncio.ensure_future(connection.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert tasks_of_ours() == []


async def test_a_master_that_was_demoted_is_left_by_its_own_word(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinels, "_LOOK_AFTER", 60.0)
    async with opened(scene.url) as connection:
        runner = Runner(connection)
        write = command("SET", "key", "value", read=nothing)
        await runner.run(write)
        scene.old.ask("REPLICAOF", HOST, str(scene.new.port))
        scene.switch()
        with pytest.raises(BrokerUnavailableError, match="read-only replica"):
            await runner.run(write)

        async def is_written() -> bool:
            with suppress(BrokerUnavailableError):
                await runner.run(write)
                return True
            return False

        await eventually(is_written, within=10)
        assert scene.new.ask("GET", "key") == b"value"
        assert await is_at(connection, scene.new)
    scene.old.ask("REPLICAOF", "NO", "ONE")
