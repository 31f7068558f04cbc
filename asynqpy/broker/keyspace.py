"""Walks over all keys of a Redis, a few hundred at a time; of a cluster, over those of each primary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from asynqpy.broker.exchange import Word
from asynqpy.broker.scripts import Runner, command

#: Keys that one SCAN walks past, whether they match or not: some 0.1 ms of Redis' time.
WALKED = 500


class Keyspace:
    """The keys of one Redis. Every method raises ``BrokerError``."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Keys that match, an answer of Redis at a time, which may be empty.

        A key that is there all the time comes at least once, perhaps twice; one that comes or goes meanwhile may not.
        """
        for node in await self._runner.primaries():
            cursor = 0
            while True:
                words: tuple[Word, ...] = ("SCAN", cursor, "MATCH", pattern, "COUNT", WALKED)
                cursor, found = await self._runner.ask(node, command(*words, read=_page))
                yield found
                if cursor == 0:
                    break

    async def size(self) -> int:
        """How many keys there are."""
        nodes = await self._runner.primaries()
        return sum([await self._runner.ask(node, command("DBSIZE", read=int)) for node in nodes])


def _page(answer: tuple[Any, list[bytes]]) -> tuple[int, list[bytes]]:
    """Cursor and keys; redis-py names the cursor of a cluster's node."""
    cursor, found = answer
    if isinstance(cursor, dict):
        (cursor,) = cursor.values()
    return int(cursor), found
