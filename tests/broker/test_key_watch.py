from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from asynqpy.broker import key_watch as module
from asynqpy.broker import tracking
from asynqpy.broker.cluster_watch import watch_of
from asynqpy.broker.connection import Connection
from asynqpy.broker.key_watch import KeyWatch, Watch
from asynqpy.errors import BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests import single
from tests.broker.conftest import Deployment
from tests.eventually import eventually
from tests.redis_process import RedisProcess, start_redis
from tests.redis_proxy import RedisProxy
from tests.topologies.cluster import start_cluster

pytestmark = single.ONE_CONNECTION


class News:
    """What a listener was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool | None]] = []

    def __call__(self, key: str, exists: bool | None) -> None:
        self.told.append((key, exists))


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection.open(redis_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def running(watch: Watch) -> AsyncIterator[asyncio.Task[None]]:
    await watch.open()
    job = asyncio.create_task(watch.run())
    yield job
    job.cancel()
    with suppress(asyncio.CancelledError, BrokerError):
        await job
    await watch.close()


@pytest.fixture
async def watch(connection: Connection) -> AsyncIterator[KeyWatch]:
    watch = KeyWatch(connection)
    async with running(watch):
        yield watch


async def calls_of(redis: Redis, name: str) -> int:
    statistics = await state.ask(redis, "INFO", "commandstats")
    return int(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"])


async def exists_calls(redis: Redis) -> int:
    return await calls_of(redis, "exists")


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECK_AFTER", 1000.0)


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECK_AFTER", 0.02)


async def test_it_tells_keys_that_exist_from_those_that_do_not(
    watch: KeyWatch, redis: Redis
) -> None:
    names = [f"k{n}" for n in range(2000)]
    there = {names[n] for n in (0, 7, 512, 513, 1500, 1999)}
    for name in there:
        await state.ask(redis, "SET", name, "1")
    assert await watch.absent(names) == set(names) - there
    assert {name for name in names if watch.exists(name)} == there


async def test_what_nobody_asked_for_is_not_known(watch: KeyWatch) -> None:
    assert watch.exists("k") is None


async def test_a_change_makes_a_key_unknown_until_it_is_asked_for_again(
    watch: KeyWatch, redis: Redis
) -> None:
    assert await watch.absent(["k"]) == {"k"}
    await state.ask(redis, "RPUSH", "k", "1")
    await eventually(lambda: watch.exists("k") is None)
    assert await watch.absent(["k"]) == set()
    assert watch.exists("k") is True


async def test_what_is_known_is_not_asked_again(
    watch: KeyWatch, redis: Redis, no_checks: None
) -> None:
    await watch.absent(["a", "b"])
    before = await exists_calls(redis)
    for _ in range(10):
        await watch.absent(["a", "b"])
    assert await exists_calls(redis) == before


async def test_a_key_that_changes_all_the_time_costs_nothing_while_nobody_asks(
    watch: KeyWatch, redis: Redis, news: News
) -> None:
    watch.on_news(["k"], news)
    await watch.absent(["k"])
    for n in range(50):
        await state.ask(redis, "SET", "k", n)
    await watch.absent(["other"])  # which is answered after all that was told
    assert news.told == [("k", False), ("k", None)]


async def test_listeners_hear_of_answers_of_changes_and_of_the_end(
    connection: Connection, redis: Redis, news: News
) -> None:
    watch = KeyWatch(connection)
    watch.on_news(["k"], news)
    async with running(watch):
        assert news.told == [("k", None)]
        await watch.absent(["k"])
        await state.ask(redis, "SET", "k", "1")
        await eventually(lambda: len(news.told) == 3)
    assert news.told == [("k", None), ("k", False), ("k", None), ("k", None)]


async def test_a_flush_makes_everything_unknown(watch: KeyWatch, redis: Redis) -> None:
    await state.ask(redis, "SET", "there", "1")
    assert await watch.absent(["there", "absent"]) == {"absent"}
    await state.ask(redis, "FLUSHALL")
    await eventually(lambda: watch.exists("absent") is None)
    assert await watch.absent(["there", "absent"]) == {"there", "absent"}


async def test_a_mark_is_another_after_a_change(watch: KeyWatch, redis: Redis) -> None:
    assert watch.mark(["a", "b"]) is None
    await watch.absent(["a", "b"])
    first = watch.mark(["a", "b"])
    assert first is not None
    await watch.absent(["c"])
    assert watch.mark(["a", "b"]) == first
    await state.ask(redis, "SET", "a", "1")
    await eventually(lambda: watch.mark(["a", "b"]) is None)
    await watch.absent(["a"])
    assert watch.mark(["a", "b"]) not in (None, first)


async def test_before_it_is_open_and_after_its_end_nothing_is_known(
    connection: Connection, redis: Redis
) -> None:
    watch = KeyWatch(connection)
    assert await watch.absent(["k"]) == set()
    async with running(watch):
        assert await watch.absent(["k"]) == {"k"}
    assert await watch.absent(["k"]) == set()
    assert watch.exists("k") is None
    async with running(watch):
        assert await watch.absent(["k"]) == {"k"}


async def test_the_proof_leaves_nothing_behind(watch: KeyWatch, redis: Redis) -> None:
    assert watch.is_live
    assert await state.ask(redis, "DBSIZE") == 0


async def test_a_redis_that_agrees_and_then_tells_nothing_is_refused(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_HANDSHAKE", [("HELLO", "3"), ("PING",)])
    monkeypatch.setattr(module, "_PROOF_TIMEOUT", 0.1)
    watch = KeyWatch(connection)
    with pytest.raises(BrokerError, match="agreed to tell of changes, but tells nothing"):
        await watch.open()
    assert not watch.is_live
    await watch.close()


async def test_a_change_that_was_not_told_is_found_by_a_check(
    connection: Connection, redis: Redis, quick_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = KeyWatch(connection)
    async with running(watch) as job:
        await watch.absent(["k"])
        monkeypatch.setattr(watch, "_changed", lambda changes: None)  # as if it never came
        await state.ask(redis, "SET", "k", "1")
        with pytest.raises(BrokerError, match="did not tell of a change"):
            await job


async def test_checks_go_on_while_nothing_happens_and_find_nothing(
    connection: Connection, redis: Redis, quick_checks: None
) -> None:
    watch = KeyWatch(connection)
    async with running(watch):
        before = await exists_calls(redis)
        await watch.absent([f"k{n}" for n in range(1500)])

        async def was_checked_often() -> bool:
            return await exists_calls(redis) >= before + 10

        assert await eventually(was_checked_often)
        await state.ask(redis, "SET", "k3", "1")
        await eventually(lambda: watch.exists("k3") is None)
        assert watch.is_live


async def test_a_line_that_fell_silent_is_given_up(
    redis_server: RedisProcess, redis_url: str, monkeypatch: pytest.MonkeyPatch, quick_checks: None
) -> None:
    monkeypatch.setattr(module, "_ANSWER_TIMEOUT", 0.1)
    async with RedisProxy.before(redis_server) as proxy:
        connection = Connection.open(proxy.url)
        watch = KeyWatch(connection)
        async with running(watch) as job:
            assert await watch.absent(["k"]) == {"k"}
            proxy.swallows_requests = True
            with pytest.raises(BrokerUnavailableError, match="fell silent on the line of changes"):
                await job
        await connection.close()


async def test_a_question_that_is_not_answered_holds_nobody_up(
    redis_server: RedisProcess, redis_url: str, monkeypatch: pytest.MonkeyPatch, no_checks: None
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    async with RedisProxy.before(redis_server) as proxy:
        connection = Connection.open(proxy.url)
        watch = KeyWatch(connection)
        async with running(watch):
            proxy.swallows_replies = True
            async with asyncio.timeout(2):
                assert await watch.absent(["k"]) == set()
        await connection.close()


async def test_a_line_that_was_cut_is_an_error_and_the_next_one_works(
    watch: KeyWatch, connection: Connection, redis: Redis
) -> None:
    await state.ask(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    other = KeyWatch(connection)
    async with running(other):
        assert await other.absent(["k"]) == {"k"}


async def test_an_event_loop_that_stood_still_is_no_silence(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, quick_checks: None
) -> None:
    monkeypatch.setattr(module, "_ANSWER_TIMEOUT", 0.05)
    watch = KeyWatch(connection)
    async with running(watch) as job:
        watch.ask(["k"])
        deadline = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < deadline:
            pass
        await eventually(lambda: watch.exists("k") is False)
        assert not job.done()


async def test_an_outage_that_others_have_met_ends_the_watch() -> None:
    with start_redis() as server:
        connection = Connection.open(server.url)
        watch = KeyWatch(connection)
        async with running(watch) as job:
            connection.breaker.failed("gone", time.monotonic(), refused=False, certain=True)
            with pytest.raises(BrokerUnavailableError, match="may be another now"):
                await job
        await connection.close()


async def test_a_line_that_stayed_where_nobody_writes_any_more_is_found_by_the_next_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PROVE_AFTER", 0.3)
    monkeypatch.setattr(module, "_PROOF_TIMEOUT", 0.3)
    with start_redis() as first, start_redis() as second:
        async with RedisProxy(first.port) as proxy:
            connection = Connection.open(proxy.url)
            watch = KeyWatch(connection)
            async with running(watch) as job:
                proxy.redis_port = second.port
                await connection.forget_idle()
                with pytest.raises(BrokerError, match="tells nothing"):
                    await job
            assert connection.breaker.outages == 0
            await connection.close()


async def test_proofs_go_on_and_find_nothing(
    connection: Connection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROVE_AFTER", 0.02)
    monkeypatch.setattr(module, "_LOOK_AFTER", 0.01)
    watch = KeyWatch(connection)
    async with running(watch) as job:
        await state.ask(redis, "CONFIG", "RESETSTAT")

        async def was_proved_often() -> bool:
            await watch.absent(["k"])
            return await calls_of(redis, "set") >= 10

        assert await eventually(was_proved_often)
        assert await watch.absent(["k", "l"]) == {"k", "l"}
        assert not job.done()


async def test_one_node_of_a_cluster_is_refused() -> None:
    with start_cluster() as cluster:
        for node in cluster.nodes:
            connection = Connection.open(node.url)
            watch = KeyWatch(connection)
            with pytest.raises(BrokerError, match="slot"):
                await watch.open()
            assert not watch.is_live
            await watch.close()
            await connection.close()


async def test_a_redis_that_forgets_what_was_read_is_refused() -> None:
    with start_redis() as server:
        server.ask("CONFIG", "SET", "tracking-table-max-keys", "10")
        connection = Connection.open(server.url)
        watch = KeyWatch(connection)
        async with running(watch) as job:

            async def ask_for_many() -> bool:
                await watch.absent([f"k{n}" for n in range(40)])
                return job.done()

            await eventually(ask_for_many)
            with pytest.raises(BrokerError, match="tracking-table-max-keys is low"):
                await job
        await connection.close()


async def test_every_shape_of_redis_can_be_watched(deployment: Deployment) -> None:
    connection = Connection.open(deployment.url)
    watch = watch_of(connection)
    async with running(watch):
        assert await watch.absent(["k", "l"]) == {"k", "l"}
        await connection.exchange.send([("SET", "k", "1")])
        await eventually(lambda: watch.exists("k") is None)
        assert watch.exists("l") is False
    await connection.close()
