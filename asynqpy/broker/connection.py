"""The connection to Redis, in every form that the public API takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeAlias

import redis.cluster
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from asynqpy import embedded
from asynqpy.broker.circuit_breaker import breaker_of
from asynqpy.broker.exchange import DirectExchange, Exchange, PipelineExchange
from asynqpy.broker.redis_client import (
    MAX_CONNECTIONS,
    ClusterPlan,
    Plan,
    plan_of_client,
    plan_of_url,
    quicker,
)
from asynqpy.broker.redis_cluster import SingleShotCluster
from asynqpy.broker.redis_url import Endpoint, parse_redis_url

RedisSource: TypeAlias = str | Redis | RedisCluster
"""A URL (``broker/redis_url.py`` lists the forms, ``embedded://[dir]`` is one more), or a client of
``redis.asyncio`` that the caller owns. Such a client keeps its own settings, also its retries, and
must answer bytes."""


class Connection:
    """A redis client for one event loop, and how to build others like it.

    Commands go through its ``exchange``. The ``description`` names the address for logs and error
    texts, and holds no secret; all connections of the process that share it share the ``breaker``.
    Once it ``is_closed``, the client must not be used: it would connect again.
    """

    def __init__(self, client: Redis | RedisCluster, plan: Plan, *, owned: bool) -> None:
        self.client = client
        self.is_cluster = isinstance(client, RedisCluster)
        self.exchange: Exchange = (
            DirectExchange(client)
            if owned and isinstance(client, Redis)
            else PipelineExchange(client)
        )
        self.description = plan.description
        self.breaker = breaker_of(plan.description)
        self.is_closed = False
        self._plan = plan
        self._owned = owned

    @classmethod
    def open(cls, redis: RedisSource) -> Connection:
        """Parse the URL or take the client. Nothing is sent; only ``embedded://`` starts a server.

        Raises ``ValueError`` for a URL or a client that cannot work, ``TypeError`` for anything
        else, and ``EmbeddedServerError``. A password is in none of them.
        """
        if not isinstance(redis, str):
            _check_client(redis)
            return cls(redis, plan_of_client(redis), owned=False)
        if redis.lower().startswith("embedded://"):
            redis = embedded.embedded_url(redis)
        return cls._build(plan_of_url(parse_redis_url(redis)))

    @classmethod
    def _build(cls, plan: Plan) -> Connection:
        return cls(plan.build(), plan, owned=True)

    def sibling(self, *, timeout: float | None = None) -> Connection:
        """An independent connection to the same Redis, with its own pool.

        For another thread's event loop. It is to be closed by itself, also when this one wraps a
        client of the caller. It waits at most ``timeout`` s for Redis, or as long as this one.
        """
        return self._build(self._plan if timeout is None else quicker(self._plan, timeout))

    async def one_node(self) -> Connection:
        """A sibling that can subscribe: of a cluster, to one of its nodes at random.

        A classic pub/sub channel reaches all nodes of a cluster, so any one will do; when it
        fails, the next call most likely chooses another.
        """
        if not isinstance(self.client, RedisCluster) or not isinstance(self._plan, ClusterPlan):
            return self.sibling()
        _ = await self.client.initialize()
        node = self.client.get_random_node()
        return self._build(self._plan.one_node(Endpoint(node.host, int(node.port))))

    @property
    def limit(self) -> int:
        """How many calls fit through at once; one more finds no free connection."""
        if isinstance(self.client, Redis):
            return int(self.client.connection_pool.max_connections)
        # Of a cluster this is a matter of each node; ours sees to it that they suffice.
        return MAX_CONNECTIONS if isinstance(self.client, SingleShotCluster) else sys.maxsize

    async def forget_idle(self) -> None:
        """Have the next calls connect anew: idle connections may be dead, or lead to a master of yesterday."""
        if isinstance(self.client, SingleShotCluster):
            self.client.forget_topology()
        await self.exchange.forget_idle()

    async def close(self) -> None:
        """Close all connections of a client that is ours, also when cancelled; leave the caller's alone. Idempotent."""
        if not self._owned:
            return
        self.is_closed = True
        await self.exchange.close()
        if isinstance(self.client, RedisCluster):
            await _close_cluster(self.client)
            return
        pools = [self.client.connection_pool]
        if isinstance(pools[0], SentinelConnectionPool):
            pools += [it.connection_pool for it in pools[0].sentinel_manager.sentinels]
        try:
            for pool in pools:
                await pool.disconnect()
        finally:  # which waits, and may be cancelled
            for pool in pools:
                await _hang_up([*pool._available_connections, *pool._in_use_connections])


async def _close_cluster(client: RedisCluster) -> None:
    try:
        await client.aclose()
    finally:
        nodes = client.nodes_manager
        for node in [*nodes.nodes_cache.values(), *nodes.startup_nodes.values()]:
            await _hang_up(node._connections)


async def _hang_up(connections: Iterable[AbstractConnection]) -> None:
    """Close what is open yet, and do not wait."""
    for connection in connections:
        await connection.disconnect(nowait=True)


def _check_client(client: object) -> None:
    if isinstance(client, redis.Redis | redis.cluster.RedisCluster):
        raise TypeError(
            "the redis client is a synchronous one: pass a redis.asyncio client, or a URL"
        )
    if not isinstance(client, Redis | RedisCluster) or isinstance(client, Pipeline):
        raise TypeError(
            "redis must be a URL like 'redis://host:6379/0' or a redis.asyncio client, "
            f"not {type(client).__name__}"
        )
    if client.get_encoder().decode_responses:
        raise ValueError(
            "the redis client has decode_responses=True, but task payloads are bytes: "
            "make the client without it"
        )
