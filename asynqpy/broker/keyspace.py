"""Walks over all keys of a Redis, a few hundred at a time; of a cluster, over those of each primary."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from redis.asyncio.cluster import RedisCluster

from asynqpy.broker.connection import Connection
from asynqpy.broker.scripts import Runner, Word, command

#: Keys that one SCAN walks past, whether they match or not: some 0.1 ms of Redis' time.
WALKED = 500


class Keyspace:
    """The keys of one Redis. Every method raises ``BrokerError``."""

    def __init__(self, runner: Runner, connection: Connection) -> None:
        self._runner = runner
        self._connection = connection

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Keys that match, an answer of Redis at a time, which may be empty.

        A key that is there all the time comes at least once, perhaps twice; one that comes or goes meanwhile may not.
        """
        for node in await self._nodes():
            cursor = 0
            while True:
                words: tuple[Word, ...] = ("SCAN", cursor, "MATCH", pattern, "COUNT", WALKED)
                cursor, found = await self._ask(node, words, _page)
                yield found
                if cursor == 0:
                    break

    async def size(self) -> int:
        """How many keys there are."""
        sizes = [await self._ask(node, ("DBSIZE",), int) for node in await self._nodes()]
        return sum(sizes)

    async def _nodes(self) -> list[Any]:
        """The primaries of a cluster; otherwise one nameless node."""
        client = self._connection.client
        if not isinstance(client, RedisCluster):
            return [None]
        with self._runner.errors():
            _ = await client.initialize()
            return list(client.get_primaries())

    async def _ask(self, node: Any, words: tuple[Word, ...], read: Callable[[Any], Any]) -> Any:
        if node is None:
            return await self._runner.run(command(*words, read=read))
        with self._runner.errors():
            return read(await self._connection.client.execute_command(*words, target_nodes=node))


def _page(answer: tuple[Any, list[bytes]]) -> tuple[int, list[bytes]]:
    """Cursor and keys; redis-py names the cursor of a cluster's node."""
    cursor, found = answer
    if isinstance(cursor, dict):
        (cursor,) = cursor.values()
    return int(cursor), found
