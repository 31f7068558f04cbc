"""Clients that show what is there, bytes in RESP2, whatever the URL leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis as blocking
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster

from asynqpy.broker.redis_url import ClusterUrl, SentinelUrl, parse_redis_url


def raw_client(url: str) -> Redis:
    """Of sentinels, for whom they call the master now; of a cluster a ``RedisCluster``, which serves as well."""
    address = parse_redis_url(url)
    if isinstance(address, SentinelUrl):
        return _client_of_master(address)
    if not isinstance(address, ClusterUrl):
        return Redis.from_url(url, protocol=2)
    nodes = [ClusterNode(*endpoint) for endpoint in address.nodes]
    return cast(Redis, RedisCluster(startup_nodes=nodes, protocol=2, require_full_coverage=False))


def _client_of_master(address: SentinelUrl) -> Redis:
    secret, endpoint = address.sentinel_credentials, address.sentinels[0]
    with blocking.Redis(*endpoint, username=secret.username, password=secret.password) as sentinel:
        host, port = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
    secret = address.credentials
    return Redis(
        host=host.decode(),
        port=int(port),
        db=address.db,
        username=secret.username,
        password=secret.password,
        protocol=2,
    )


#: Commands without a key, which concern every node of a cluster.
OF_ALL_NODES = ("ACL", "CLIENT", "CONFIG", "KEYS", "PUBSUB", "SCRIPT")


async def ask(redis: Redis | RedisCluster, *words: str | bytes | float) -> Any:
    """The answer to one raw command. Where it concerns all nodes of a cluster, their answers put together:
    numbers added up, lists joined, else the first; to ``PUBLISH``, how many of all nodes listen.
    """
    if isinstance(redis, RedisCluster) and words[0] in OF_ALL_NODES:
        return together(words, await _ask_all(redis, *words))
    if isinstance(redis, RedisCluster) and words[0] == "PUBLISH":
        _, listening = await ask(redis, "PUBSUB", "NUMSUB", words[1])
        await redis.execute_command(*words)
        return listening
    return await redis.execute_command(*words)


async def _ask_all(cluster: RedisCluster, *words: str | bytes | float) -> list[Any]:
    _ = await cluster.initialize()
    nodes = cluster.get_primaries() if words[0] == "KEYS" else cluster.get_nodes()
    return [await node.execute_command(*words) for node in nodes]


def together(words: Sequence[str | bytes | float], answers: Sequence[Any]) -> Any:
    """One answer for those of all nodes."""
    if words[:2] == ("PUBSUB", "NUMSUB"):
        return [answers[0][0], sum(count for _, count in answers)]
    if isinstance(answers[0], list) and words[0] != "SCRIPT":
        return [item for answer in answers for item in answer]
    is_number = isinstance(answers[0], int) and not isinstance(answers[0], bool)
    return sum(answers) if is_number else answers[0]


async def keys_of(redis: Redis | RedisCluster, pattern: str = "*") -> list[bytes]:
    """The names that match, sorted; of a cluster, those of all primaries."""
    return sorted(await ask(redis, "KEYS", pattern))
