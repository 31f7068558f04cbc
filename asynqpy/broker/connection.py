"""The connection to Redis, in every form that the public API takes."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterable
from typing import TypeAlias

import redis.cluster
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection

from asynqpy import embedded
from asynqpy.broker.circuit_breaker import breaker_of
from asynqpy.broker.cluster_exchange import ClusterExchange
from asynqpy.broker.exchange import DirectExchange, Exchange, PipelineExchange
from asynqpy.broker.link import abort, leads_to
from asynqpy.broker.master_watch import MasterPool
from asynqpy.broker.redis_client import (
    MAX_CONNECTIONS,
    SOCKET_TIMEOUT,
    ClusterPlan,
    Plan,
    SentinelPlan,
    plan_of_client,
    plan_of_url,
    quicker,
)
from asynqpy.broker.redis_url import Endpoint, parse_redis_url

RedisSource: TypeAlias = str | Redis | RedisCluster
"""A URL (``broker/redis_url.py`` lists the forms, ``embedded://[dir]`` is one more), or a client of
``redis.asyncio`` that the caller owns. Such a client keeps its own settings, also its retries, and
must answer bytes."""


class Connection:
    """A way to Redis for one event loop, and how to build others like it.

    Commands go through its ``exchange``; a ``cluster`` also tells of its nodes. The ``description``
    names the address for logs and error texts, and holds no secret; all connections of the process
    that share it share the ``breaker``. Once it ``is_closed``, it must not be used: it would
    connect again.
    """

    def __init__(self, client: Redis | RedisCluster | None, plan: Plan) -> None:
        """``client`` is the caller's own, if there is one."""
        self.cluster: ClusterExchange | None = None
        self.exchange: Exchange
        self._owned = client is None
        if isinstance(plan, ClusterPlan):
            self.exchange = self.cluster = ClusterExchange(plan)
        elif client is None:
            client = plan.build()
            self.exchange = DirectExchange(client)
        if not self._owned and client is not None:
            self.exchange = PipelineExchange(client)
        #: Of redis-py; None for a cluster of ours.
        self.client = client
        self.description = plan.description
        self.breaker = breaker_of(plan.description)
        self.is_closed = False
        self._plan = plan
        if isinstance(plan, SentinelPlan):
            plan.watch.follow(self)

    @classmethod
    def open(cls, redis: RedisSource) -> Connection:
        """Parse the URL or take the client. Nothing is sent; only ``embedded://`` starts a server.

        Raises ``ValueError`` for a URL or a client that cannot work, ``TypeError`` for anything
        else, and ``EmbeddedServerError``. A password is in none of them.
        """
        if not isinstance(redis, str):
            _check_client(redis)
            return cls(redis, plan_of_client(redis))
        if redis.lower().startswith("embedded://"):
            redis = embedded.embedded_url(redis)
        return cls(None, plan_of_url(parse_redis_url(redis)))

    def sibling(self, *, timeout: float | None = None) -> Connection:
        """An independent connection to the same Redis, with its own pool.

        For another thread's event loop. It is to be closed by itself, also when this one wraps a
        client of the caller. It waits at most ``timeout`` s for Redis, or as long as this one.
        """
        return Connection(None, self._plan if timeout is None else quicker(self._plan, timeout))

    async def some_node(self) -> Endpoint | None:
        """A node of a cluster, at random; None where there is no choice.

        A classic pub/sub channel reaches all nodes of a cluster, so any one will do; when it
        fails, the next call most likely chooses another.
        """
        return None if self.cluster is None else random.choice(await self.cluster.all_nodes())

    async def one_node(self, node: Endpoint | None = None) -> Connection:
        """A sibling that can subscribe: of a cluster, to this node of it, or to ``some_node``."""
        node = node or await self.some_node()
        if node is None or not isinstance(self._plan, ClusterPlan):
            return self.sibling()
        return Connection(None, self._plan.one_node(node))

    @property
    def limit(self) -> int:
        """How many calls fit through at once; one more finds no free connection."""
        if isinstance(self.client, Redis):
            return int(self.client.connection_pool.max_connections)
        # Of a cluster each node gets as many at most; a caller's client looks after its own.
        return MAX_CONNECTIONS if self._owned else sys.maxsize

    @property
    def socket_timeout(self) -> float | None:
        """Seconds that Redis has for an answer; None is no limit."""
        timeout: float | None = self._plan.options.get("socket_timeout", SOCKET_TIMEOUT)
        if isinstance(self.client, Redis):
            timeout = self.client.connection_pool.connection_kwargs.get("socket_timeout")
        return timeout

    @property
    def routes_waits(self) -> bool:
        """Whether a command without a key goes where the one before it went: ``WAIT`` has to."""
        return not isinstance(self.client, RedisCluster)

    async def forget_idle(self) -> None:
        """Have the next calls connect anew: idle connections may be dead, or lead to a master of yesterday."""
        await self.exchange.forget_idle()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which it talks to a master that sentinels name, once it has."""
        if isinstance(self.exchange, PipelineExchange):
            return self.exchange.loop
        pool = self.client.connection_pool if isinstance(self.client, Redis) else None
        return pool.loop if isinstance(pool, MasterPool) else None

    def leads_to(self, address: Endpoint) -> bool:
        """Whether anything is connected to it."""
        return isinstance(
            self.exchange, DirectExchange | PipelineExchange
        ) and self.exchange.leads_to(address)

    def hang_up(self, address: Endpoint) -> None:
        """Drop what is connected to it: the master is another. On its event loop."""
        if isinstance(self.exchange, DirectExchange | PipelineExchange):
            self.exchange.hang_up(address)
        if self._owned and isinstance(self.client, Redis):
            for connection in list(self.client.connection_pool._in_use_connections):
                if leads_to(connection, address):
                    abort(connection)  # of a subscriber

    async def close(self) -> None:
        """Close all connections of a client that is ours, also when cancelled; leave the caller's alone. Idempotent."""
        self.is_closed = self.is_closed or self._owned
        if self.cluster is not None:
            await self.cluster.close()
        if not self._owned:
            return
        await self.exchange.close()
        if not isinstance(self.client, Redis):
            return
        pool = self.client.connection_pool
        try:
            if isinstance(pool, MasterPool):
                await pool.part()
            await pool.disconnect()
        finally:  # which waits, and may be cancelled
            await _hang_up([*pool._available_connections, *pool._in_use_connections])


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
