"""Listens on the channel by which people ask for running tasks to be cancelled."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from asynqpy.broker import keys
from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.errors import BrokerUnavailableError

#: Seconds of silence after which the other end is asked for a sign of life.
_PING_AFTER = 10.0


class Cancellations:
    """A subscription to the cancel channel, on a connection of its own.

    Redis keeps nothing for a subscriber that is away: what is published between two subscriptions is missed.
    """

    def __init__(self, connection: Connection) -> None:
        self._parent = connection
        self._runner = Runner(connection)
        self._connection: Connection | None = None
        self._pubsub: PubSub | None = None
        #: Of a cluster, the node that it is subscribed to.
        self._node: Endpoint | None = None
        self._outages = 0
        self._pinged = False

    async def open(self) -> None:
        """Subscribe, and return when Redis has confirmed it. Raises ``BrokerError``."""
        if self._parent.breaker.is_open:
            await self._runner.run(command("PING", read=nothing))
        self._outages = self._parent.breaker.outages
        with self._runner.errors():
            self._node = await self._parent.some_node()
            self._connection = await self._parent.one_node(self._node)
            assert isinstance(self._connection.client, Redis)
            self._pubsub = self._connection.client.pubsub()
            await self._pubsub.subscribe(keys.CANCEL_CHANNEL)
            confirmation = await self._pubsub.get_message(timeout=_PING_AFTER)
        if confirmation is None:
            where = self._parent.description
            raise BrokerUnavailableError(f"Redis at {where} did not confirm the cancel channel")
        self._runner.refuse_after_outage(self._outages)

    async def next(self) -> str:
        """Wait for the id of the next task to cancel. Raises ``BrokerError`` when the connection breaks."""
        assert self._pubsub is not None, "open() comes first"
        while True:
            self._runner.refuse_after_outage(self._outages)
            with self._runner.errors():
                message = await self._pubsub.get_message(timeout=_PING_AFTER)
            if message is None:
                await self._refuse_a_node_that_has_left()
                await self._ask_for_a_sign_of_life(self._pubsub)
            elif message["type"] == "message":
                return bytes(message["data"]).decode("utf-8", "replace")
            else:
                self._pinged = False

    async def _refuse_a_node_that_has_left(self) -> None:
        """One that was taken out of its cluster goes on answering, and hears nothing."""
        cluster = self._parent.cluster
        if cluster is None:
            return
        with self._runner.errors():
            nodes = await cluster.all_nodes()
        if self._node not in nodes:
            raise BrokerUnavailableError(f"Redis at {self._node} has left its cluster, or is away")
        cluster.distrust()  # so that the next look finds what is true now

    async def _ask_for_a_sign_of_life(self, pubsub: PubSub) -> None:
        if self._pinged:
            where = self._parent.description
            raise BrokerUnavailableError(f"Redis at {where} fell silent on the cancel channel")
        self._pinged = True
        with self._runner.errors():
            await pubsub.ping()

    async def close(self) -> None:
        """Give the connection up. Idempotent. All is closed also when it is cancelled."""
        pubsub, connection = self._pubsub, self._connection
        self._pubsub = self._connection = None
        self._pinged = False
        try:
            if pubsub is not None:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
        finally:  # it may wait, and be cancelled
            if connection is not None:
                await connection.close()
