"""A cluster client that sends a command once, and waits where redis-py's own would fail."""

from __future__ import annotations

from asyncio import Semaphore
from typing import Any

from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    RedisClusterException,
    RedisError,
    TimeoutError,
)

_STALE_TOPOLOGY = (ConnectionError, TimeoutError, ClusterDownError)


class SingleShotCluster(RedisCluster):
    """A ``RedisCluster`` without silent retries; redirections (MOVED, ASK) are still followed.

    redis-py sends a command again after a lost connection, unless its class lists no errors for
    that. At most ``limit`` commands and as many pipelines are under way; the next one waits for
    its turn, where redis-py raises once a node has too many connections.
    """

    ERRORS_ALLOW_RETRY = ()  # type: ignore[assignment]  # redis-py types its own four errors

    def __init__(self, *, limit: int, **options: Any) -> None:
        # A MOVED teaches the client that one slot. By default redis-py also closes all connections
        # at every fifth, whatever is under way on them; and redis-py 8 gets many when its first
        # commands come together, as it sends those to random nodes.
        super().__init__(reinitialize_steps=0, **options)
        self._use_fresh_connections()
        # redis-py 5 runs a pipeline this many times, the first one included; later ones ignore it.
        self.cluster_error_retry_attempts = 1
        self._command_turns = Semaphore(limit)
        # Their own turns: a pipeline runs redirected commands, which must not wait for pipelines.
        self.pipeline_turns = Semaphore(limit)

    def _use_fresh_connections(self) -> None:
        options = self.nodes_manager.connection_kwargs
        tls = issubclass(options["connection_class"], SSLConnection)
        options["connection_class"] = FreshSSLConnection if tls else FreshConnection
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = options["connection_class"]

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:
        """Ask a node for the topology, unless that is known.

        What keeps the nodes from answering is raised as a single Redis would raise it; redis-py
        wraps it into a ``RedisClusterException``, which is no ``RedisError``.
        """
        try:
            return await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise _reason(error) from error

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        async with self._command_turns:
            return await super().execute_command(*args, **kwargs)

    def pipeline(
        self, transaction: Any | None = None, shard_hint: Any | None = None
    ) -> SingleShotPipeline:
        if transaction or shard_hint:
            raise ValueError("a cluster's pipeline is neither a transaction nor bound to a shard")
        return SingleShotPipeline(self)

    def forget_topology(self) -> None:
        """Ask the nodes anew, before the next command, which of them holds which slot."""
        self._initialize = True

    async def aclose(self) -> None:
        """Close every connection, also those that redis-py forgets about when it asks anew."""
        await super().aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")
        holders = self.nodes_manager.slots_cache.values()
        for node in {id(node): node for nodes in holders for node in nodes}.values():
            await node.disconnect()


def _reason(error: RedisClusterException) -> RedisError:
    cause: BaseException | None = error
    while cause and not isinstance(cause, RedisError):
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, RedisError) else ClusterDownError(str(error))


class SingleShotPipeline(ClusterPipeline):
    """A pipeline over many slots that is sent once.

    redis-py looks for a new topology only when it retries, so without retries a pipeline would go
    to a dead node for ever: here a failure makes the client ask anew.
    """

    _event_dispatcher: Any  # redis-py's protocol asks for one and its own pipeline has none

    def __init__(self, cluster: SingleShotCluster) -> None:
        super().__init__(cluster)
        self._cluster = cluster

    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        async with self._cluster.pipeline_turns:
            try:
                answers = await super().execute(raise_on_error, allow_redirections)
            except _STALE_TOPOLOGY:
                self._cluster.forget_topology()
                raise
        if any(isinstance(answer, _STALE_TOPOLOGY) for answer in answers):
            self._cluster.forget_topology()
        return answers


class FreshConnection(Connection):
    """Opens anew when the server has closed it, say for a restart, while it lay in the pool.

    The pool of a single Redis looks after that; a cluster node's would send into the void.
    """

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if self._reader is not None and self._reader.at_eof():
            await self.disconnect(nowait=True)
        await super().send_packed_command(*args, **kwargs)


class FreshSSLConnection(FreshConnection, SSLConnection):
    """The same over TLS."""
