"""How the clients behave that asynqpy builds, for each shape of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection as PlainConnection
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ConnectionError, NoScriptError, ResponseError

from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_client import (
    MAX_CONNECTIONS,
    ClusterPlan,
    SentinelPlan,
    SinglePlan,
    plan_of_client,
    plan_of_url,
    quicker,
)
from asynqpy.broker.redis_url import Endpoint, parse_redis_url
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.broker.tls import SentinelTlsConnection, TlsConnection
from tests import single
from tests.broker.conftest import Deployment
from tests.eventually import eventually
from tests.redis_process import RedisProcess, free_port, start_redis

QUEUES = [f"{{queue-{number}}}" for number in range(30)]  # over all nodes of a cluster

APPEND = (
    "redis.call('RPUSH', KEYS[1], ARGV[1]) return {KEYS[1], ARGV[1], redis.call('LLEN', KEYS[1])}"
)


@pytest.fixture
async def connection(deployment: Deployment) -> AsyncIterator[Connection]:
    opened = Connection.open(deployment.url)
    yield opened
    await opened.close()


@pytest.fixture
async def sibling(callers_client: Redis | RedisCluster) -> AsyncIterator[Connection]:
    """Made from a client that would repeat what fails."""
    opened = Connection.open(callers_client).sibling()
    yield opened
    await opened.close()


@pytest.fixture
def both(connection: Connection, sibling: Connection) -> list[Connection]:
    return [connection, sibling]


async def pipe(connection: Connection, *commands: tuple[Any, ...]) -> list[Any]:
    return await connection.exchange.send(commands)


async def ask(connection: Connection, *words: Any) -> Any:
    (answer,) = await connection.exchange.send([words])
    if isinstance(answer, Exception):
        raise answer
    return answer


async def cut_while_blocked(deployment: Deployment) -> None:
    """Cut the connection whose command waits in Redis, and see that none waits again."""
    await eventually(lambda: sum(blocked(deployment)) == 1)
    deployment.ask_all("CLIENT KILL", "TYPE", "normal")
    assert sum(blocked(deployment)) == 0


def blocked(deployment: Deployment) -> list[int]:
    return [info["blocked_clients"] for info in deployment.ask_all("INFO", "clients")]


async def test_a_command_that_is_cut_is_not_sent_again(
    both: list[Connection], deployment: Deployment
) -> None:
    for connection in both:
        waiting = asyncio.create_task(ask(connection, "BLPOP", "list", "0"))
        await cut_while_blocked(deployment)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(waiting, 2)
        assert sum(blocked(deployment)) == 0


async def test_a_pipeline_that_is_cut_is_not_sent_again(
    both: list[Connection], deployment: Deployment
) -> None:
    for count, connection in zip((b"1", b"2"), both, strict=True):
        commands = (("INCR", "{q}:count"), ("BLPOP", "{q}:list", "0"))
        waiting = asyncio.create_task(pipe(connection, *commands))
        await cut_while_blocked(deployment)
        try:
            answers = await asyncio.wait_for(waiting, 2)
        except ConnectionError:
            pass
        else:
            assert isinstance(answers[-1], ConnectionError)
        assert sum(blocked(deployment)) == 0
        assert await ask(connection, "GET", "{q}:count") == count


async def test_connections_are_bounded(
    connection: Connection, sibling: Connection, deployment: Deployment
) -> None:
    pop = Runner(connection).run
    call = command("BLPOP", "list", "0", read=nothing)
    waiting = [asyncio.create_task(pop(call)) for _ in range(3 * MAX_CONNECTIONS)]
    await eventually(lambda: sum(blocked(deployment)) >= MAX_CONNECTIONS)
    for _ in range(10):
        await ask(sibling, "GET", "elsewhere")
    assert sum(blocked(deployment)) == MAX_CONNECTIONS
    await ask(sibling, "RPUSH", "list", *range(len(waiting)))
    await asyncio.gather(*waiting)


async def test_a_thousand_callers_wait_for_a_connection(connection: Connection) -> None:
    asyncio.get_running_loop().set_debug(False)  # which makes a thousand tasks take seconds
    runner, call = Runner(connection), command("INCR", "count", read=int)
    counts = await asyncio.gather(*(runner.run(call) for _ in range(1000)))
    assert sorted(counts) == list(range(1, 1001))


async def let_the_loop_hear_of_it() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_connections_that_the_server_closed_while_idle_are_opened_anew(
    connection: Connection, deployment: Deployment
) -> None:
    await asyncio.gather(*(ask(connection, "GET", queue) for queue in QUEUES))
    deployment.ask_all("CLIENT KILL", "TYPE", "normal")
    await let_the_loop_hear_of_it()
    await asyncio.gather(*(ask(connection, "GET", queue) for queue in QUEUES))
    deployment.ask_all("CLIENT KILL", "TYPE", "normal")
    await let_the_loop_hear_of_it()
    assert await pipe(connection, *(("GET", queue) for queue in QUEUES)) == [None] * len(QUEUES)


async def test_the_first_command_after_a_restart_succeeds() -> None:
    port = free_port()
    connection = Connection.open(f"redis://127.0.0.1:{port}")
    for end in (RedisProcess.stop, RedisProcess.kill):
        with start_redis(port=port) as server:
            await let_the_loop_hear_of_it()
            assert await ask(connection, "SET", "key", "value")
            end(server)
    with pytest.raises(ConnectionError):
        await ask(connection, "GET", "key")
    with start_redis(port=port):
        assert await ask(connection, "GET", "key") is None
    await connection.close()


async def test_a_pipeline_runs_scripts_on_many_slots(connection: Connection) -> None:
    calls = [("EVAL", APPEND, 1, f"{queue}:list", str(i)) for i, queue in enumerate(QUEUES)]
    expected = [[f"{queue}:list".encode(), b"%d" % i, 1] for i, queue in enumerate(QUEUES)]
    assert await pipe(connection, *calls) == expected


async def test_a_pipeline_answers_each_command_by_itself(
    connection: Connection, deployment: Deployment
) -> None:
    sha = deployment.servers[0].ask("SCRIPT LOAD", APPEND)
    deployment.ask_all("SCRIPT FLUSH")
    a, b, c = (f"{queue}:list" for queue in QUEUES[:3])
    unknown, known, wrong, none = await pipe(
        connection,
        ("EVALSHA", sha, 1, a, "1"),
        ("EVAL", APPEND, 1, b, "1"),
        ("GET", b),
        ("LRANGE", c, 0, -1),
    )
    assert isinstance(unknown, NoScriptError)
    assert known == [b.encode(), b"1", 1]
    assert isinstance(wrong, ResponseError)
    assert str(wrong).startswith("WRONGTYPE")
    assert none == []


async def test_answers_are_those_of_resp2(connection: Connection) -> None:
    script = "redis.call('ZADD', KEYS[1], 1.5, 'a') return redis.call('ZSCORE', KEYS[1], 'a')"
    answers = await pipe(
        connection,
        ("EVAL", script, 1, "{q}:zset"),
        ("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, "{q}:hash"),
        ("EVAL", "return {true, false, 2.9, 'text'}", 1, "{q}:hash"),
    )
    assert answers == [b"1.5", [], [1, None, 2, b"text"]]


@single.CALLERS_CLIENT
async def test_a_client_of_its_own_speaks_to_the_caller_as_before(redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=3) as client:
        connection = Connection.open(client)
        assert await pipe(connection, ("EVAL", "return {true, false, 'a'}", 0)) == [[1, None, b"a"]]
        assert client.connection_pool.connection_kwargs["protocol"] == 3


async def test_the_tls_of_a_url_reaches_every_connection() -> None:
    """Each of the same address has the same files, which say when they are renewed."""
    single = plan_of_url(parse_redis_url("rediss://h?ssl_server_name=redis.internal"))
    assert isinstance(single, SinglePlan)
    assert single.connection_class is TlsConnection
    assert quicker(single, 1.0).options["tls"] is single.options["tls"]
    watched = plan_of_url(parse_redis_url("rediss-sentinel://h?master=m"))
    assert isinstance(watched, SentinelPlan)
    assert watched.connection_class is SentinelTlsConnection
    assert watched.sentinel_options["tls"] is watched.options["tls"]
    assert quicker(watched, 1.0).options["tls"] is watched.options["tls"]
    cluster = plan_of_url(parse_redis_url("rediss-cluster://h"))
    assert isinstance(cluster, ClusterPlan)
    node = cluster.one_node(Endpoint("h2", 1))
    assert node.connection_class is TlsConnection
    assert node.options["tls"] is cluster.options["tls"]


@pytest.mark.parametrize("options", [{"ssl_cert_reqs": None}, {"ssl_ca_certs": "ca.pem"}], ids=str)
async def test_every_option_of_a_clients_tls_is_kept(options: dict[str, Any]) -> None:
    """Also one that is None: that verifies nothing."""
    client = Redis(host="h", ssl=True, **options)
    plan = plan_of_client(client)
    assert options.items() <= plan.options.items()
    await client.aclose()


@pytest.mark.parametrize("options", [{"ssl": False}, {}], ids=str)
async def test_sentinels_without_tls_are_asked_without_its_options(options: Any) -> None:
    """As redis-py does, which passes over them."""
    options |= {"ssl_ca_certs": "ca.pem", "ssl_cert_reqs": None}
    manager = cast(Any, Sentinel)([("h", 1)], sentinel_kwargs=options)
    plan = plan_of_client(manager.master_for("m"))
    assert isinstance(plan, SentinelPlan)
    (sentinel,) = plan.sentinels
    pool: Any = plan._pool_of(sentinel)
    assert type(pool.make_connection()) is PlainConnection
