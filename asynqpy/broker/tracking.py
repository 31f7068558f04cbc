"""A line on which Redis tells of changes: one connection that speaks RESP3, with ``CLIENT TRACKING``.

Redis remembers the keys that were read on it, whether they are there or not, and says once of each when it changes,
whoever changes it (the "invalidate" message of server-assisted client-side caching). The connection is made by
redis-py, which knows address, TLS, password and sentinels, and is read here: its versions hand such messages over in
different ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from asynqpy.broker.connection import Connection
from asynqpy.broker.scripts import Runner
from asynqpy.errors import BrokerError, BrokerUnavailableError

Changes: TypeAlias = "list[bytes] | None"
"""Names of keys that have changed; ``None``: any may have."""

#: Seconds that Redis gets to agree to it.
_HANDSHAKE_TIMEOUT = 3.0

#: Seconds more for an answer that may be here already, when it was our own event loop that stood still.
_GRACE = 0.05

_READ_SIZE = 65_536


class TrackingLine:
    """Commands whose answers are numbers, and messages of change between them, in the order Redis sent them."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._sibling: Connection | None = None
        self._link: AbstractConnection | None = None
        self._received: asyncio.Task[bytes] | None = None
        self._parser = hiredis.Reader()

    async def open(self) -> None:
        """Connect, and have Redis agree.

        Raises ``BrokerUnavailableError`` when it cannot be reached, another ``BrokerError`` when it (or a proxy before
        it) knows or allows no such thing.
        """
        with Runner(self._parent).errors():
            self._sibling = await self._parent.one_node()
            assert isinstance(self._sibling.client, Redis)
            self._link = self._sibling.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            await self._link.connect()
        try:
            await self._shake_hands()
        except (OSError, TimeoutError, RedisError, BrokerUnavailableError) as error:
            # No news of the health of Redis, which answered a moment ago: a proxy may hang up on what it does not know.
            reason = str(error) or "no answer"
            raise BrokerError(f"{self._name} does not tell of changes: {reason}") from error

    async def _shake_hands(self) -> None:
        self.send([("HELLO", "3"), ("CLIENT", "TRACKING", "ON")])
        replies: list[object] = []
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
            while len(replies) < 2:
                replies += self._parsed(await self._data())
        for reply in replies:
            if isinstance(reply, Exception):
                raise BrokerError(f"{self._name} does not tell of changes: {reply}")

    @property
    def _name(self) -> str:
        return f"Redis at {self._parent.description}"

    def send(self, commands: Iterable[Sequence[str]]) -> None:
        """Send the commands, and do not wait for the answers."""
        assert self._link is not None, "open() comes first"
        assert self._link._writer is not None
        self._link._writer.write(b"".join(map(_packed, commands)))

    async def receive(self, timeout: float) -> list[int | Changes]:
        """What has come: the numbers of answers, and changes. Nothing when ``timeout`` s have passed.

        Raises ``BrokerUnavailableError`` when the connection broke, ``BrokerError`` for any other answer.
        """
        if self._received is None:
            self._received = asyncio.create_task(self._data(), name="asynqpy:tracking")
        # The reading is not cancelled, and so can lose nothing.
        if not (await asyncio.wait([self._received], timeout=timeout))[0]:
            await asyncio.wait([self._received], timeout=_GRACE)
        if not self._received.done():
            return []
        received, self._received = self._received, None
        try:
            return [self._item(reply) for reply in self._parsed(received.result())]
        except OSError as error:
            raise self._broken(error) from error

    async def _data(self) -> bytes:
        assert self._link is not None, "open() comes first"
        assert self._link._reader is not None
        data = await self._link._reader.read(_READ_SIZE)
        if not data:
            raise self._broken("it was closed at the other end")
        return data

    def _parsed(self, data: bytes) -> list[object]:
        self._parser.feed(data)
        replies: list[object] = []
        try:
            while (reply := self._parser.gets()) is not False:
                replies.append(reply)
        except hiredis.ProtocolError as error:
            raise BrokerError(f"{self._name} answered what is not RESP3: {error}") from error
        return replies

    def _item(self, reply: object) -> int | Changes:
        if isinstance(reply, int):
            return reply
        # Early versions of hiredis make a plain list of a message; ours ask for no lists.
        if isinstance(reply, list) and len(reply) == 2 and reply[0] == b"invalidate":
            names: Changes = reply[1]
            return names
        raise BrokerError(f"{self._name} answered on the line of changes: {reply!r}")

    def _broken(self, why: object) -> BrokerUnavailableError:
        return BrokerUnavailableError(f"{self._name} broke the line of changes ({why})")

    async def close(self) -> None:
        """Hang up. Idempotent. All is closed also when it is cancelled."""
        received, link, sibling = self._received, self._link, self._sibling
        self._received = self._link = self._sibling = None
        if received is not None:
            received.cancel()
            received.add_done_callback(_forget_error)
        if link is not None:
            await link.disconnect(nowait=True)
        # From here on it waits, and may be cancelled.
        if sibling is not None:
            await sibling.close()
        if received is not None:
            await asyncio.wait([received])


def _forget_error(received: asyncio.Task[bytes]) -> None:
    """Nobody waits for it any more."""
    if not received.cancelled():
        received.exception()


def _packed(words: Sequence[str]) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(it), it) for it in encoded]
    )
