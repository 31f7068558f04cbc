"""Which keys of a cluster exist: a watch for each node that holds slots, looked at as one.

A node whose watch breaks is watched anew after a moment, the others go on; and all begin anew when slots have moved.
What nothing is known of is polled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from itertools import count

from asynqpy.broker.cluster_exchange import ClusterExchange
from asynqpy.broker.connection import Connection
from asynqpy.broker.key_watch import KeyWatch, Listener, Share, Watch
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.broker.slots import SlotMap, slot_of
from asynqpy.errors import BrokerError, BrokerUnavailableError

#: Seconds in which a node that is well agrees to be watched.
_PATIENCE = 2.0

#: Seconds between two looks whether slots have moved.
_LOOK_AFTER = 0.5

#: Seconds before a node whose watch broke is watched anew, and before one that refused to be watched.
_OPEN_AGAIN, _ASK_AGAIN = 1.0, 60.0


def watch_of(connection: Connection) -> Watch:
    """The watch for the Redis of this connection."""
    if connection.cluster is None:
        return KeyWatch(connection)
    return ClusterWatch(connection, connection.cluster)


class ClusterWatch:
    """As ``KeyWatch``, of all nodes. It is live when all are watched."""

    def __init__(self, connection: Connection, cluster: ClusterExchange) -> None:
        self._connection = connection
        self._cluster = cluster
        self._runner = Runner(connection)
        self._listeners: dict[str, Listener] = {}
        self._learned = count(1)
        self._slots = SlotMap()
        self._changes = 0
        self._watches: dict[Endpoint, KeyWatch] = {}
        self._opening: dict[Endpoint, asyncio.Task[BrokerError | None]] = {}

    @property
    def is_live(self) -> bool:
        return bool(self._watches) and all(it.is_live for it in self._watches.values())

    def on_news(self, names: Iterable[str], listener: Listener) -> None:
        """To be called before ``open``."""
        self._listeners |= dict.fromkeys(names, listener)

    def _of(self, key: str) -> KeyWatch | None:
        owner = self._slots.owners[slot_of(key)]
        return None if owner is None else self._watches.get(owner)

    def _by_watch(self, names: Iterable[str]) -> list[tuple[KeyWatch, list[str]]]:
        shares: dict[int, tuple[KeyWatch, list[str]]] = {}
        for name in names:
            if (watch := self._of(name)) is not None:
                shares.setdefault(id(watch), (watch, []))[1].append(name)
        return list(shares.values())

    def exists(self, key: str) -> bool | None:
        watch = self._of(key)
        return None if watch is None else watch.exists(key)

    def mark(self, names: Iterable[str]) -> int | None:
        wanted = list(names)
        shares = self._by_watch(wanted)
        marks = [watch.mark(its) for watch, its in shares]
        if sum(len(its) for _, its in shares) < len(wanted):
            return None
        known = [mark for mark in marks if mark is not None]
        return max(known) if len(known) == len(marks) else None

    def ask(self, names: Iterable[str]) -> None:
        for watch, its in self._by_watch(names):
            watch.ask(its)

    async def absent(self, names: Collection[str]) -> set[str]:
        shares = self._by_watch(names)
        found = await asyncio.gather(*(watch.absent(its) for watch, its in shares))
        return set().union(*found)

    async def open(self) -> None:
        """Watch the nodes. Raises ``BrokerError`` if none can be watched."""
        await self._runner.run(command("PING", read=nothing))
        self._changes = self._cluster.changes
        with self._runner.errors():
            self._slots = await self._cluster.owners()
        self._watches = {it: self._watch(it) for it in self._slots.primaries}
        self._opening = {
            node: asyncio.create_task(_opened(it)) for node, it in self._watches.items()
        }
        opening = self._opening.values()
        # A frozen node answers much later, if ever: that is for ``run`` to wait for.
        _, late = await asyncio.wait(opening, timeout=_PATIENCE)
        if not late and all(it.result() for it in opening):
            raise next(error for it in opening if (error := it.result()) is not None)

    def _watch(self, node: Endpoint) -> KeyWatch:
        owners = self._slots.owners
        share = Share(node, lambda slot: owners[slot] == node)
        watch = KeyWatch(self._connection, share, self._learned)
        for name, listener in self._listeners.items():
            if owners[slot_of(name)] == node:
                watch.on_news([name], listener)
        return watch

    async def run(self) -> None:
        """Keep what is known true; returns when slots have moved, and it is to be opened anew."""
        keeping = [asyncio.create_task(self._keep(*it)) for it in self._watches.items()]
        try:
            while self._changes == self._cluster.changes:
                with self._runner.errors():
                    _ = await self._cluster.owners()  # has it look, where it is in doubt
                done, _ = await asyncio.wait(
                    keeping, timeout=_LOOK_AFTER, return_when=asyncio.FIRST_COMPLETED
                )
                for ended in done:
                    ended.result()  # there is no end but a fault
        finally:
            for each in keeping:
                each.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)

    async def _keep(self, node: Endpoint, watch: KeyWatch) -> None:
        """Run the watch of a node, and open it again when it breaks."""
        error = await self._opening[node]
        while True:
            error = error or await _ended(watch)
            self._cluster.distrust()
            is_refusal = not isinstance(error, BrokerUnavailableError)
            await asyncio.sleep(_ASK_AGAIN if is_refusal else _OPEN_AGAIN)
            error = await _opened(watch)

    async def close(self) -> None:
        """Know nothing any more, and give the connections up. Idempotent."""
        watches, self._watches = list(self._watches.values()), {}
        opening, self._opening = list(self._opening.values()), {}
        for each in opening:
            each.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await asyncio.gather(*(watch.close() for watch in watches))


async def _opened(watch: KeyWatch) -> BrokerError | None:
    try:
        await watch.open()
    except BrokerError as error:
        await watch.close()
        return error
    return None


async def _ended(watch: KeyWatch) -> BrokerError:
    try:
        await watch.run()
    except BrokerError as error:
        await watch.close()
        return error
