"""One connection to Redis, read as its bytes arrive.

redis-py makes it: address, TLS, password, the master that sentinels name. From then on the bytes go straight from the
event loop to the parser, and each reply to whoever listens: no stream, no task and no timer stand between.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from asynqpy.broker.outage import CONNECTING
from asynqpy.broker.redis_errors import Kind, kind_of
from asynqpy.broker.redis_url import Endpoint

#: In redis-py's words.
CLOSED = "Connection closed by server."

#: What the parser gives while a reply is incomplete; RESP3 has a ``false`` of its own.
_INCOMPLETE = object()


class Link(asyncio.Protocol, ABC):
    """A connection that was taken over from redis-py. Only on the event loop on which it was made."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport
        self._parser: hiredis.Reader
        #: What is left of redis-py's: it knows how to pack commands.
        self.shell: AbstractConnection
        #: Kept: a writer that nobody holds closes its transport.
        self._writer: asyncio.StreamWriter

    @classmethod
    async def connect(
        cls, pool: ConnectionPool, begun: Callable[[AbstractConnection], object] | None = None
    ) -> Self:
        """A new connection, as this pool makes them; it is none of the pool's. Raises what redis-py raises.

        ``begun`` is told of it at once.
        """
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        if begun is not None:
            begun(connection)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            return cls.take_over(connection)
        except RedisConnectionError as error:
            await connection.disconnect(nowait=True)
            if kind_of(error) is not Kind.BROKEN:
                raise
            # Nothing of ours was sent. A server does so that speaks TLS only, or misses a certificate.
            when = "after the TLS handshake" if isinstance(connection, SSLConnection) else "at once"
            text = f"Error {CONNECTING} {connection._host_error()}: it hung up {when} ({error})"
            raise RedisConnectionError(text) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    @classmethod
    def take_over(cls, connection: AbstractConnection) -> Self:
        """Read and write in place of this connection of redis-py's, which is an empty shell from then on.

        Raises redis-py's ``ConnectionError`` if it is closed, or has said what nobody asked.
        """
        link = cls()
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None or not _is_quiet(reader):
            raise RedisConnectionError(CLOSED)
        parse_error = connection._parser.parse_error
        link._parser = hiredis.Reader(
            protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_INCOMPLETE
        )
        link.shell, link._writer, link.is_open = connection, writer, True
        link._transport = cast(asyncio.Transport, writer.transport)
        link._transport.set_protocol(link)
        connection._reader = connection._writer = None
        return link

    def write(self, data: bytes) -> None:
        """Send the bytes, and do not wait."""
        self._transport.write(data)

    def unsent(self) -> int:
        """How many bytes have not reached the network yet."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Hang up at once; ``_lost`` hears of it in the next turn of the event loop. Idempotent."""
        self.is_open = False
        # Not by ``close``: that waits for as long as Redis takes nothing.
        self._transport.abort()

    @abstractmethod
    def _hear(self, reply: Any) -> None:
        """Take a reply, or what Redis says of its own accord. An error of Redis is a ``RedisError``, not raised."""

    @abstractmethod
    def _lost(self, error: Exception) -> None:
        """Nothing more will come."""

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        try:
            parser.feed(data)
            while self.is_open and (reply := parser.gets()) is not _INCOMPLETE:
                self._hear(reply)
        except InvalidResponse as error:
            self.close()
            self._lost(error)

    def eof_received(self) -> None:
        self.is_open = False  # and so it is closed

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        text = CLOSED if error is None else f"Connection lost: {error}"
        self._lost(RedisConnectionError(text))


def leads_to(connection: AbstractConnection, address: Endpoint) -> bool:
    """Whether it is, was or will be connected to this address, as far as it knows by now."""
    return address == (getattr(connection, "host", None), getattr(connection, "port", None))


def abort(connection: AbstractConnection) -> None:
    """Have a connection of redis-py's break at once, which whoever reads from it is told."""
    if connection._writer is not None:
        connection._writer.transport.abort()


def _is_quiet(reader: asyncio.StreamReader) -> bool:
    return (
        not reader.at_eof() and reader.exception() is None and not getattr(reader, "_buffer", b"")
    )
