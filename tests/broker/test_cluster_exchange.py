from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from asynqpy.broker import cluster_exchange as module
from asynqpy.broker.cluster_exchange import ClusterExchange
from asynqpy.broker.connection import Connection
from asynqpy.broker.exchange import Command
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.broker.slots import slot_of
from asynqpy.errors import BrokerUnavailableError
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

#: One key for each of three primaries, and many more.
KEYS = [f"{{{n}}}:key" for n in range(30)]

pytestmark = pytest.mark.usefixtures("empty_cluster")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClusterExchange]:
    connection = Connection.open(url)
    assert connection.cluster is not None
    try:
        yield connection.cluster
    finally:
        await connection.close()


def moving(cluster: ClusterProcesses, key: str) -> MovingSlot:
    holder = cluster.primary_of(key)
    target, *others = (it for it in cluster.primaries() if it is not holder)
    return MovingSlot(slot_of(key), holder, target, others)


def commands_of(node: RedisProcess, name: str) -> int:
    stats = node.ask("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])


async def test_answers_come_in_the_order_of_the_commands(cluster: ClusterProcesses) -> None:
    async with connected(cluster.url) as exchange:
        writes = [("SET", key, key) for key in KEYS]
        assert await exchange.send(writes) == [True] * len(KEYS)
        answers = await exchange.send([*(("GET", key) for key in KEYS), ("NONSENSE", "k")])
        assert answers[:-1] == [key.encode() for key in KEYS]
        assert isinstance(answers[-1], ResponseError)
        assert {cluster.primary_of(key).port for key in KEYS} == {it.port for it in cluster.nodes}
        assert await exchange.send([]) == []


async def test_what_has_no_key_goes_with_the_command_before_it(cluster: ClusterProcesses) -> None:
    commands = [word for key in KEYS[:6] for word in (("SET", key, "1"), ("WAIT", 0, 50))]
    before = [commands_of(node, "wait") for node in cluster.nodes]
    async with connected(cluster.url) as exchange:
        assert await exchange.send(commands) == [True, 0] * 6
    after = [commands_of(node, "wait") for node in cluster.nodes]
    holders = [cluster.primary_of(key).port for key in KEYS[:6]]
    grown = [now - then for then, now in zip(before, after, strict=True)]
    assert grown == [holders.count(node.port) for node in cluster.nodes]


async def test_without_any_key_all_ask_the_same_node(cluster: ClusterProcesses) -> None:
    before = [commands_of(node, "ping") for node in cluster.nodes]
    for _ in range(5):
        async with connected(cluster.url) as exchange:
            await exchange.send([("PING",)])
    after = [commands_of(node, "ping") for node in cluster.nodes]
    assert sorted(now - then for then, now in zip(before, after, strict=True)) == [0, 0, 5]


async def test_a_moved_slot_is_followed_once_and_remembered() -> None:
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", key, "0") for key in KEYS])
            changes = exchange.changes
            move = moving(cluster, KEYS[0])
            move.begin()
            move.end()
            counts = await asyncio.gather(
                *(exchange.send([("INCR", KEYS[0]), ("INCR", KEYS[1])]) for _ in range(10))
            )
            assert sorted(one for one, _ in counts) == list(range(1, 11))
            assert sorted(other for _, other in counts) == list(range(1, 11))
            assert exchange.changes > changes
            errors = move.source.ask("INFO", "errorstats").get("errorstat_MOVED", {"count": 0})
            await exchange.send([("INCR", KEYS[0])] * 5)
            now = move.source.ask("INFO", "errorstats").get("errorstat_MOVED", {"count": 0})
            assert now == errors


async def test_keys_of_a_slot_on_the_move_are_found_on_either_node() -> None:
    with start_cluster() as cluster:
        gone, still = "{a}gone", "{a}still"
        script = "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}"
        both = ("EVAL", script, 2, gone, still)
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", gone, "1"), ("SET", still, "2")])
            move = moving(cluster, gone)
            move.begin()
            move.carry(gone)
            answers = await exchange.send([("INCR", gone), ("INCR", still), ("WAIT", 0, 10), both])
            assert answers[:3] == [2, 3, 0]
            assert isinstance(answers[3], TryAgainError)
            move.end()
            assert await exchange.send([both]) == [[b"2", b"3"]]


async def test_a_dead_nodes_commands_fail_and_no_others() -> None:
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", key, "1") for key in KEYS])
            dead = cluster.kill_primary_of(KEYS[0])
            (failed,) = await exchange.send([("GET", KEYS[0])])
            assert isinstance(failed, ConnectionError)
            for _ in range(3):
                answers = await exchange.send([("GET", key) for key in KEYS])
                kinds = {type(answer) for answer in answers}
                assert ConnectionError in kinds
                assert not exchange.reaches(KEYS[0])
                assert exchange.is_alive
                assert b"1" in answers or ClusterDownError in kinds
            dead.start_again()
            cluster.wait_until_whole()

            async def is_back() -> bool:
                return not isinstance((await exchange.send([("EXISTS", KEYS[0])]))[0], Exception)

            await eventually(is_back)
            assert exchange.reaches(KEYS[0])


async def test_who_takes_over_from_a_dead_primary_is_found() -> None:
    with start_cluster(3, 1) as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", KEYS[0], "1"), ("WAIT", 1, 1000)])
            cluster.kill_primary_of(KEYS[0])

            async def is_found() -> bool:
                return await exchange.send([("GET", KEYS[0])]) == [b"1"]

            await eventually(is_found, within=20)


async def test_a_frozen_node_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynqpy.broker.redis_client.SOCKET_TIMEOUT", 0.5)
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", key, "1") for key in KEYS])
            frozen = cluster.primary_of(KEYS[0])
            frozen.pause()
            try:
                answers = await exchange.send([("GET", key) for key in KEYS])
                assert {type(it) for it in answers} > {bytes}
                loop = asyncio.get_running_loop()
                began = loop.time()
                for _ in range(10):
                    answers = await exchange.send([("GET", key) for key in KEYS])
                    assert b"1" in answers
                assert loop.time() - began < 10 * 0.5
            finally:
                frozen.resume()

            async def is_back() -> bool:
                return await exchange.send([("GET", KEYS[0])]) == [b"1"]

            await eventually(is_back)


async def test_a_node_that_lags_behind_the_others_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LAG", 0.2)
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", key, "1") for key in KEYS])
            frozen = cluster.primary_of(KEYS[0])
            frozen.pause()
            try:
                async with asyncio.timeout(5):  # the time-out of a connection is 10 s
                    answers = await exchange.send([("GET", key) for key in KEYS])
            finally:
                frozen.resume()
            assert isinstance(answers[0], TimeoutError)
            assert {it for it in answers if not isinstance(it, TimeoutError)} == {b"1"}
            assert not exchange.reaches(KEYS[0])

            async def is_back() -> bool:
                return await exchange.send([("GET", key) for key in KEYS]) == [b"1"] * len(KEYS)

            await eventually(is_back)


async def test_a_silent_node_that_is_asked_alone_is_not_waited_for_while_others_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LAG", 0.2)
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", KEYS[0], "1")])
            frozen = cluster.primary_of(KEYS[0])
            frozen.pause()
            try:
                async with asyncio.timeout(5):  # the time-out of a connection is 10 s
                    (answer,) = await exchange.send([("GET", KEYS[0])])
            finally:
                frozen.resume()
            assert isinstance(answer, TimeoutError)
            assert not exchange.reaches(KEYS[0])


async def test_a_silent_node_is_waited_for_while_the_others_are_silent_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LAG", 1.0)
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", KEYS[0], "1")])
            node = cluster.primary_of(KEYS[0])
            others = [it for it in cluster.nodes if it is not node]
            for each in cluster.nodes:
                each.pause()
            asking = asyncio.create_task(exchange.send([("GET", KEYS[0])]))
            done, _ = await asyncio.wait([asking], timeout=1.4)
            for other in others:
                other.resume()
            for other in others:
                other.ask("PING")
            done, _ = await asyncio.wait([asking], timeout=0.3)
            node.resume()
            assert not done
            assert await asking == [b"1"]


async def test_a_silent_node_is_given_up_also_when_more_and_more_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A question is no sign of life."""
    monkeypatch.setattr(module, "_LAG", 0.5)
    with start_cluster() as cluster:
        async with connected(cluster.url) as exchange:
            await asyncio.gather(*(exchange.send([("SET", KEYS[0], "1")]) for _ in range(20)))
            frozen = cluster.primary_of(KEYS[0])
            frozen.pause()
            try:
                first = asyncio.create_task(exchange.send([("GET", KEYS[0])]))
                more = []
                async with asyncio.timeout(5):  # the time-out of a connection is 10 s
                    while not first.done():
                        more.append(asyncio.create_task(exchange.send([("GET", KEYS[0])])))
                        await asyncio.sleep(0.1)
                    await asyncio.gather(*more)
            finally:
                frozen.resume()
            (answer,) = await first
            assert isinstance(answer, TimeoutError | ConnectionError)
            assert len(more) < 15


async def test_a_silent_node_is_given_up_though_more_have_fallen_silent_than_are_asked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LAG", 0.2)
    monkeypatch.setattr(module, "_PROMPT", 0.2)
    with start_cluster(6) as cluster:
        async with connected(cluster.url) as exchange:
            await exchange.send([("SET", key, "1") for key in KEYS])
            *frozen, _ = sorted(cluster.nodes, key=lambda it: it is not cluster.primary_of(KEYS[0]))
            for node in frozen:
                node.pause()
            try:
                async with asyncio.timeout(8):  # the time-out of a connection is 10 s
                    (answer,) = await exchange.send([("GET", KEYS[0])])
            finally:
                for node in frozen:
                    node.resume()
            assert isinstance(answer, TimeoutError)
            assert not exchange.reaches(KEYS[0])


async def test_a_cluster_out_of_reach_raises_what_a_single_redis_would() -> None:
    async with connected(f"redis-cluster://{HOST}:{free_port()}") as exchange:
        with pytest.raises(ConnectionError, match="connecting to"):
            await exchange.send([("PING",)])
    with start_redis("--requirepass", "s3cret") as single:
        async with connected(f"redis-cluster://:wrong@{single.address}") as exchange:
            with pytest.raises(AuthenticationError):
                await exchange.send([("PING",)])
        async with connected(f"redis-cluster://:s3cret@{single.address}") as exchange:
            with pytest.raises(ResponseError, match=r"(?i)cluster support disabled"):
                await exchange.send([("PING",)])


async def test_a_slot_that_nobody_holds_is_down() -> None:
    with start_redis("--cluster-enabled", "yes") as node:
        node.ask("CLUSTER ADDSLOTS", "1")
        async with connected(f"redis-cluster://{node.address}") as exchange:
            (answer,) = await exchange.send([("GET", KEYS[0])])
            assert isinstance(answer, ClusterDownError)


async def test_one_seed_is_enough_and_dead_ones_do_no_harm(cluster: ClusterProcesses) -> None:
    dead = f"{HOST}:{free_port()}"
    async with connected(f"redis-cluster://{dead},{cluster.nodes[0].address}") as exchange:
        assert {it.port for it in await exchange.primaries()} == {it.port for it in cluster.nodes}
        assert await exchange.send([("SET", key, "1") for key in KEYS]) == [True] * len(KEYS)


async def test_closing_ends_what_is_under_way(cluster: ClusterProcesses) -> None:
    exchange = Connection.open(cluster.url).cluster
    assert exchange is not None
    await exchange.send([("DEL", KEYS[0])])
    waiting = asyncio.create_task(exchange.send([("BLPOP", KEYS[0], 0)]))
    await asyncio.sleep(0)
    await exchange.close()
    (answer,) = await waiting
    assert isinstance(answer, ConnectionError)
    (answer,) = await exchange.send([("GET", KEYS[0])])
    assert isinstance(answer, ConnectionError)
    await exchange.close()


async def test_a_closed_one_asks_nobody(cluster: ClusterProcesses) -> None:
    exchange = Connection.open(cluster.url).cluster
    assert exchange is not None
    await exchange.close()
    with pytest.raises(ConnectionError, match="closed"):
        await exchange.send([("PING",)])


async def test_a_node_that_is_slow_but_answers_is_waited_for(
    cluster: ClusterProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = 0.6
    monkeypatch.setattr(module, "_LAG", lag)
    slow, quick = KEYS[0], next(key for key in KEYS if not is_together(cluster, key, KEYS[0]))
    spin = "local n = 0 for i = 1, 3000000 do n = n + i end return 1"
    async with connected(cluster.url) as exchange:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # So long that Redis reads them one by one, and answers each before the next.
        words: Command = ("EVAL", spin, 1, slow, "x" * 40_000)
        answers = await exchange.send([("GET", quick), *[words] * 60])
        assert answers == [None, *[1] * 60]
        assert loop.time() - began > lag, "too quick to tell"


def is_together(cluster: ClusterProcesses, one: str, other: str) -> bool:
    return cluster.primary_of(one) is cluster.primary_of(other)


async def test_a_node_that_waits_for_replicas_is_not_taken_for_silent(
    cluster: ClusterProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LAG", 0.2)
    other = next(key for key in KEYS if not is_together(cluster, key, KEYS[0]))
    async with connected(cluster.url) as exchange:
        commands: list[Command] = [("SET", other, "1"), ("SET", KEYS[0], "1"), ("WAIT", 1, 600)]
        assert await exchange.send(commands) == [True, True, 0]
        assert exchange.reaches(KEYS[0])


async def test_a_close_that_is_cancelled_leaves_nothing_open(cluster: ClusterProcesses) -> None:
    connection = Connection.open(cluster.url)
    assert connection.cluster is not None
    await connection.cluster.send([("GET", key) for key in KEYS])
    links = [link for node in connection.cluster._nodes.values() for link in node._exchange._idle]
    closing = asyncio.create_task(connection.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert len(links) == 3
    assert not any(link.is_open for link in links)
    assert connection.is_closed


async def test_the_first_primary_is_asked_again_after_it_was_away(
    cluster: ClusterProcesses,
) -> None:
    async with connected(cluster.url) as exchange:
        await exchange.send([("PING",)])
        first = (await exchange.primaries())[0]
        exchange.node(first).fell_silent(ConnectionError("for a moment"))

        async def is_back() -> bool:
            await exchange.send([("PING",)])
            return not exchange.node(first).is_away

        await eventually(is_back)


async def test_a_slot_that_nobody_has_makes_no_outage() -> None:
    with start_cluster(3, 0, "--cluster-require-full-coverage", "no") as cluster:
        slot = str(slot_of(KEYS[0]))
        for node in cluster.nodes:
            node.ask("CLUSTER", "DELSLOTS", slot)
        connection = Connection.open(cluster.url)
        runner = Runner(connection)
        for _ in range(3):
            with pytest.raises(BrokerUnavailableError, match="CLUSTERDOWN"):
                await runner.run(command("GET", KEYS[0], read=nothing))
            assert not connection.breaker.is_open
        assert connection.breaker.outages == 0
        await connection.close()


async def test_a_cluster_that_is_down_is_an_outage() -> None:
    with start_cluster() as cluster:
        connection = Connection.open(cluster.url)
        runner = Runner(connection)
        calls = [command("SET", key, "1", read=nothing) for key in KEYS]
        await runner.run_each(calls)
        for node in cluster.nodes:
            node.ask("CLUSTER", "DELSLOTS", str(slot_of(KEYS[0])))

        async def is_down() -> bool:
            with suppress(BrokerUnavailableError):
                await runner.run_all(calls)
            return connection.breaker.is_open

        await eventually(is_down)
        await connection.close()
