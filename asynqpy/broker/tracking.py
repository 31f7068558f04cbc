"""A line on which Redis tells of changes: one connection that speaks RESP3, with ``CLIENT TRACKING``.

Redis remembers the keys that were read on it, whether they are there or not, and says once of each when it changes,
whoever changes it (the "invalidate" message of server-assisted client-side caching). The connection is made by
redis-py, which knows address, TLS, password and sentinels, and is read here: its versions hand such messages over in
different ways, and none at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from redis.asyncio import Redis

from asynqpy.broker.connection import Connection
from asynqpy.broker.link import Link
from asynqpy.broker.redis_errors import AWAY, Kind, kind_of
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Runner
from asynqpy.errors import BrokerError, BrokerUnavailableError

Changes: TypeAlias = "list[bytes] | None"
"""Names of keys that have changed; ``None``: any may have."""

#: What Redis has to agree to, and the seconds it gets.
_HANDSHAKE = (("HELLO", "3"), ("CLIENT", "TRACKING", "ON"))
_HANDSHAKE_TIMEOUT = 3.0


class TrackingLine:
    """Commands whose answers are numbers, and messages of change between them, in the order Redis sent them."""

    def __init__(
        self,
        parent: Connection,
        hear: Callable[[int | Changes], None],
        node: Endpoint | None = None,
    ) -> None:
        """``hear`` is told each as it arrives; a ``BrokerError`` of its own ends the line, and ``wait`` raises it.

        The line goes to that ``node`` of a cluster.
        """
        self._parent = parent
        self._node = node
        self._hear = hear
        self._sibling: Connection | None = None
        self._link: _TrackingLink | None = None

    async def open(self) -> None:
        """Connect, and have Redis agree.

        Raises ``BrokerUnavailableError`` when it cannot be reached, another ``BrokerError`` when it (or a proxy before
        it) knows or allows no such thing.
        """
        with Runner(self._parent).errors():
            self._sibling = await self._parent.one_node(self._node)
            assert isinstance(self._sibling.client, Redis)
            self._link = await _TrackingLink.connect(self._sibling.client.connection_pool)
        try:
            replies = await self._shake_hands(self._link)
        except (TimeoutError, BrokerError) as error:
            # No news of the health of Redis, which answered a moment ago: a proxy may hang up on what it does not know.
            reason = str(error) or "no answer"
            raise BrokerError(f"{self._name} does not tell of changes: {reason}") from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise BrokerError(f"{self._name} does not tell of changes: {reply}")

    async def _shake_hands(self, link: _TrackingLink) -> list[object]:
        replies: list[object] = []
        link.listener = replies.append
        self.send(_HANDSHAKE)
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT):
            while len(replies) < len(_HANDSHAKE):
                await link.news()
                self._check(link)
        link.listener = lambda reply: self._hear(self._item(reply))
        return replies

    @property
    def _name(self) -> str:
        return f"Redis at {self._node or self._parent.description}"

    def send(self, commands: Iterable[Sequence[str]]) -> None:
        """Send the commands, and do not wait for the answers."""
        assert self._link is not None, "open() comes first"
        self._link.write(b"".join(map(_packed, commands)))

    async def wait(self, timeout: float) -> bool:
        """Until something is heard, ``timeout`` s at most; answers whether anything was.

        Raises ``BrokerUnavailableError`` when the connection broke, another ``BrokerError`` for what it cannot be.
        """
        assert self._link is not None, "open() comes first"
        heard = False
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._link.news()
                heard = True
        self._check(self._link)
        return heard

    def _check(self, link: _TrackingLink) -> None:
        if isinstance(link.failure, BrokerError):
            raise link.failure
        if link.failure is not None:
            text = f"{self._name} broke the line of changes ({link.failure})"
            raise BrokerUnavailableError(text) from link.failure

    def _item(self, reply: object) -> int | Changes:
        if isinstance(reply, int):
            return reply
        # Early versions of hiredis make a plain list of a message; ours ask for no lists.
        if isinstance(reply, list) and len(reply) == 2 and reply[0] == b"invalidate":
            names: Changes = reply[1]
            return names
        text = str(reply) if isinstance(reply, Exception) else repr(reply)
        # Of a cluster whose slots move, or a node that is not ready, it is no refusal.
        is_passing = isinstance(reply, Exception) and kind_of(reply) in {*AWAY, Kind.MOVING}
        error = BrokerUnavailableError if is_passing else BrokerError
        raise error(f"{self._name} answered on the line of changes: {text}")

    async def close(self) -> None:
        """Hang up. Idempotent. All is closed also when it is cancelled."""
        link, sibling = self._link, self._sibling
        self._link = self._sibling = None
        if link is not None:
            link.close()
        if sibling is not None:
            await sibling.close()


class _TrackingLink(Link):
    """Passes on what arrives until somebody objects or the connection ends, and remembers why."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: Callable[[object], None]
        self.failure: Exception | None = None
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait until anything was heard since the last time, or nothing more will be."""
        await self._news.wait()
        self._news.clear()

    def _hear(self, reply: Any) -> None:
        self._news.set()
        if self.failure is not None:
            return
        try:
            self.listener(reply)
        except BrokerError as error:
            self.failure = error
            self.close()

    def _lost(self, error: Exception) -> None:
        self.failure = self.failure or error
        self._news.set()


def _packed(words: Sequence[str]) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(it), it) for it in encoded]
    )
