"""How the clients behave that asynqpy builds, for each shape of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError, NoScriptError, ResponseError

from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_client import MAX_CONNECTIONS
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
    async with connection.client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
    return answers


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
        waiting = asyncio.create_task(connection.client.execute_command("BLPOP", "list", "0"))
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
        assert await connection.client.execute_command("GET", "{q}:count") == count


async def test_connections_are_bounded(
    connection: Connection, sibling: Connection, deployment: Deployment
) -> None:
    pop = connection.client.execute_command
    waiting = [asyncio.create_task(pop("BLPOP", "list", "0")) for _ in range(3 * MAX_CONNECTIONS)]
    await eventually(lambda: sum(blocked(deployment)) >= MAX_CONNECTIONS)
    for _ in range(10):
        await sibling.client.execute_command("GET", "elsewhere")
    assert sum(blocked(deployment)) == MAX_CONNECTIONS
    await sibling.client.execute_command("RPUSH", "list", *range(len(waiting)))
    await asyncio.gather(*waiting)


async def test_a_thousand_callers_wait_for_a_connection(connection: Connection) -> None:
    asyncio.get_running_loop().set_debug(False)  # which makes a thousand tasks take seconds
    incr = connection.client.execute_command
    commands = (incr("INCR", "count") for _ in range(1000))
    pipelines = (pipe(connection, ("INCR", "count")) for _ in range(200))
    await asyncio.gather(*commands, *pipelines)
    assert await connection.client.execute_command("GET", "count") == b"1200"


async def let_the_loop_hear_of_it() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_connections_that_the_server_closed_while_idle_are_opened_anew(
    connection: Connection, deployment: Deployment
) -> None:
    get = connection.client.execute_command
    await asyncio.gather(*(get("GET", queue) for queue in QUEUES))
    deployment.ask_all("CLIENT KILL", "TYPE", "normal")
    await let_the_loop_hear_of_it()
    await asyncio.gather(*(get("GET", queue) for queue in QUEUES))
    deployment.ask_all("CLIENT KILL", "TYPE", "normal")
    await let_the_loop_hear_of_it()
    assert await pipe(connection, *(("GET", queue) for queue in QUEUES)) == [None] * len(QUEUES)


async def test_the_first_command_after_a_restart_succeeds() -> None:
    port = free_port()
    connection = Connection.open(f"redis://127.0.0.1:{port}")
    for end in (RedisProcess.stop, RedisProcess.kill):
        with start_redis(port=port) as server:
            await let_the_loop_hear_of_it()
            assert await connection.client.execute_command("SET", "key", "value")
            end(server)
    with pytest.raises(ConnectionError):
        await connection.client.execute_command("GET", "key")
    with start_redis(port=port):
        assert await connection.client.execute_command("GET", "key") is None
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


async def test_a_client_of_its_own_speaks_to_the_caller_as_before(redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=3) as client:
        connection = Connection.open(client)
        assert await pipe(connection, ("EVAL", "return {true, false, 'a'}", 0)) == [[1, None, b"a"]]
        assert client.connection_pool.connection_kwargs["protocol"] == 3
