from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    RedisError,
)

from asynqpy.broker.connection import Connection
from tests.redis_process import (
    HOST,
    ClusterProcesses,
    RedisProcess,
    free_port,
    start_cluster,
    start_redis,
)

KEY = "{queue}:key"


def slot_of(key: str) -> int:
    return RedisCluster(HOST, 1).keyslot(key)


def holder(cluster: ClusterProcesses, key: str) -> RedisProcess:
    """The node that a cluster started by the tests gives the key to: slots go in equal parts."""
    return cluster.nodes[slot_of(key) * len(cluster.nodes) // 16_384]


def give_slot(key: str, old_name: str, new: RedisProcess, others: list[RedisProcess]) -> None:
    slot, new_name = str(slot_of(key)), new.ask("CLUSTER MYID")
    # Having imported the slot, a node claims it in a higher epoch than the one that had it.
    new.ask("CLUSTER SETSLOT", slot, "IMPORTING", old_name)
    for node in (new, *others):
        node.ask("CLUSTER SETSLOT", slot, "NODE", new_name)


@contextmanager
def slot_moved_to_another_node(cluster: ClusterProcesses, key: str) -> Iterator[None]:
    old = holder(cluster, key)
    new, other = (node for node in cluster.nodes if node is not old)
    give_slot(key, old.ask("CLUSTER MYID"), new, [old, other])
    yield
    new.ask("DEL", key)
    give_slot(key, new.ask("CLUSTER MYID"), old, [new, other])


async def push(connection: Connection) -> object:
    """Push onto the list at KEY by a script in a pipeline over two slots; its length or error."""
    async with connection.client.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("EVAL", "return redis.call('RPUSH', KEYS[1], 1)", 1, KEY)
        pipeline.execute_command("GET", "elsewhere")
        answers = await pipeline.execute(raise_on_error=False)
    return answers[0]


async def test_a_slot_is_followed_to_its_new_node(cluster: ClusterProcesses) -> None:
    connection = Connection.open(cluster.url)
    await connection.client.execute_command("DEL", KEY)
    with slot_moved_to_another_node(cluster, KEY):
        pushes = (push(connection) for _ in range(10))
        reads = (connection.client.execute_command("EXISTS", KEY) for _ in range(10))
        answers = await asyncio.gather(*pushes, *reads)
        assert set(answers[:10]) == set(range(1, 11))
    await connection.close()


async def test_many_commands_may_be_the_first(cluster: ClusterProcesses) -> None:
    connection = Connection.open(cluster.url)
    await connection.client.execute_command("DEL", KEY)
    await connection.close()
    connection = Connection.open(cluster.url)
    await asyncio.gather(*(connection.client.execute_command("INCR", KEY) for _ in range(50)))
    assert await connection.client.execute_command("GET", KEY) == b"50"
    await connection.close()


async def test_a_pipeline_finds_who_took_over_from_a_dead_node() -> None:
    with start_cluster() as cluster:
        connection = Connection.open(cluster.url)
        assert await push(connection) == 1
        dead = holder(cluster, KEY)
        dead_name = dead.ask("CLUSTER MYID")
        dead.kill()
        assert isinstance(await outcome(push(connection)), ConnectionError)
        heir, other = (node for node in cluster.nodes if node is not dead)
        give_slot(KEY, dead_name, heir, [other])
        assert await push(connection) == 1
        await connection.close()


async def outcome(work: Awaitable[object]) -> object:
    try:
        return await work
    except RedisError as error:
        return error


async def test_a_cluster_is_no_transaction(cluster: ClusterProcesses) -> None:
    connection = Connection.open(cluster.url)
    with pytest.raises(ValueError, match="transaction"):
        connection.client.pipeline(transaction=True)
    await connection.close()


async def raised(url: str) -> RedisError:
    connection = Connection.open(url)
    with pytest.raises(RedisError) as error:
        await connection.client.execute_command("GET", KEY)
    with pytest.raises(type(error.value)):
        async with connection.client.pipeline():
            pass
    await connection.close()
    return error.value


async def test_a_cluster_out_of_reach_raises_what_a_single_redis_would() -> None:
    assert type(await raised(f"redis-cluster://{HOST}:{free_port()}")) is ConnectionError
    with start_redis("--requirepass", "s3cret") as single:
        wrong = await raised(f"redis-cluster://:wrong@{single.address}")
        assert type(wrong) is AuthenticationError
        no_cluster = await raised(f"redis-cluster://:s3cret@{single.address}")
        assert re.search("cluster (support disabled|mode is not enabled)", str(no_cluster), re.I)


async def test_a_cluster_with_slots_that_nobody_holds_is_down() -> None:
    with start_redis("--cluster-enabled", "yes") as node:
        node.ask("CLUSTER ADDSLOTS", "1")
        down = await raised(f"redis-cluster://{node.address}")
        assert isinstance(down, ClusterDownError)
