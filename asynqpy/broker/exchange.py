"""One round trip: many commands go out together, and an answer or an error comes back for each.

A client of ours talks through connections that are kept here rather than in redis-py's pool, whose checks, locks and
timers around each command cost more than the command. What a connection is (address, TLS, password, the master that
sentinels name) stays redis-py's own matter. A client of the caller's, and a cluster's, talk through its pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import hiredis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

Word: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Word, ...]

#: Told the place of a command and its answer, or its ``ResponseError``, as soon as that is read.
Told: TypeAlias = Callable[[int, Any], None]

#: Fewest bytes of commands that are written by themselves when answers are wanted early. Redis answers together what it
#: reads together.
_EARLY_BYTES = 2_048

#: Packs a command in C; early versions of hiredis only read.
_pack = getattr(hiredis, "pack_command", None)


class Exchange(Protocol):
    """How commands reach Redis."""

    @property
    def answers_early(self) -> bool:
        """Whether ``told`` hears of answers while others are on their way. Then all commands go to one node."""

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        """Send the commands once, in order; return the answer or the ``ResponseError`` of each.

        ``told`` hears of each meanwhile, or of none. Raises whatever redis-py raises when the connection fails; then
        any of the other commands may have been run.
        """

    async def forget_idle(self) -> None:
        """Have the next commands connect anew."""

    async def close(self) -> None:
        """Close the connections that are kept here. Idempotent."""


class PipelineExchange:
    """Through the pipeline and the pool of a client."""

    answers_early = False

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._client = client

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def forget_idle(self) -> None:
        if isinstance(self._client, Redis):
            for idle in list(self._client.connection_pool._available_connections):
                # Without a wait, so that nobody takes one that is half closed.
                await idle.disconnect(nowait=True)

    async def close(self) -> None:
        """The connections are the client's."""


class DirectExchange:
    """Through connections made by the pool of a client, and kept here: as many as there were exchanges at once.

    One that failed, or was given up half-way, is never used again. All belong to the event loop of the first exchange;
    in another nothing is sent, and it raises ``RuntimeError``.
    """

    answers_early = True

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._callbacks = client.response_callbacks
        self._timeout: float | None = self._pool.connection_kwargs.get("socket_timeout")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[AbstractConnection] = []
        self._connecting: set[asyncio.Timeout] = set()
        self._talking: set[AbstractConnection] = set()
        self._is_closed = False

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        self._check_loop()
        connection = await self._take_idle() or self._new()
        try:
            if not connection.is_connected:
                await self._connect(connection)
            replies = await self._talk(connection, commands, told)
        except BaseException:
            # Also a cancelled one: its answers would be taken for those of the next.
            await connection.disconnect(nowait=True)
            raise
        if self._is_closed:
            await connection.disconnect(nowait=True)
        elif connection.is_connected:
            self._idle.append(connection)
        return replies

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("its connections are attached to a different event loop")

    async def _take_idle(self) -> AbstractConnection | None:
        """The one that was used last and is still good."""
        while self._idle:
            connection = self._idle.pop()
            if _is_good(connection):
                return connection
            await connection.disconnect(nowait=True)
        return None

    def _new(self) -> AbstractConnection:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def _connect(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                self._connecting.add(limit)
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                finally:
                    self._connecting.discard(limit)
        except TimeoutError:  # redis-py has its own for a Redis that is slow
            raise RedisConnectionError("closed while it connected") from None
        # From here on one timer covers an exchange. redis-py's own are one for each answer, and a task for each write.
        connection.socket_timeout = None

    async def _talk(
        self, connection: AbstractConnection, commands: Sequence[Command], told: Told | None
    ) -> list[Any]:
        self._talking.add(connection)
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._timeout) as limit:
                for packed in _writes(connection, commands, early=told is not None):
                    await connection.send_packed_command(packed)
                self._give_time(limit)
                for place, words in enumerate(commands):
                    replies.append(await self._reply(connection, words[0]))
                    if told is not None:
                        told(place, replies[-1])
                    self._give_time(limit)
        except TimeoutError:
            raise RedisTimeoutError(f"no answer within {self._timeout} s") from None
        finally:
            self._talking.discard(connection)
        return replies

    def _give_time(self, limit: asyncio.Timeout) -> None:
        """The time-out is for each answer (nine tenths of it at least): a long pipeline takes many times as long."""
        when = limit.when()
        if self._timeout is not None and when is not None:
            now = asyncio.get_running_loop().time()
            if when - now < 0.9 * self._timeout:
                limit.reschedule(now + self._timeout)

    async def _reply(self, connection: AbstractConnection, name: Word) -> Any:
        try:
            reply = await connection.read_response()
        except ResponseError as error:
            return error
        callback = None if name == "EVALSHA" else self._callbacks.get(str(name))
        return reply if callback is None else callback(reply)

    async def forget_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def close(self) -> None:
        """What is under way ends with an error of redis-py's."""
        self._is_closed = True
        await self.forget_idle()
        # Not by ``disconnect``: redis-py would connect again, in the midst of its own handshake.
        for limit in self._connecting:
            limit.reschedule(0)
        for connection in list(self._talking):
            await connection.disconnect(nowait=True)


def _is_good(connection: AbstractConnection) -> bool:
    """Whether Redis has neither closed it meanwhile nor said what nobody asked: that would pass for the next answer."""
    reader, parser = connection._reader, getattr(connection._parser, "_reader", None)
    if reader is None or reader.at_eof() or reader.exception() is not None:
        return False
    return not getattr(reader, "_buffer", b"") and not (parser is not None and parser.has_data())


def _writes(
    connection: AbstractConnection, commands: Sequence[Command], *, early: bool
) -> Iterator[list[bytes]]:
    """The commands packed, together; or, for early answers, in runs that Redis works on while the next is packed."""
    if not early:
        yield _packed(connection, commands)
        return
    run: list[bytes] = []
    for words in commands:
        run += _packed(connection, [words])
        if sum(map(len, run)) >= _EARLY_BYTES:
            yield run
            run = []
    if run:
        yield run


def _packed(connection: AbstractConnection, commands: Sequence[Command]) -> list[bytes]:
    if _pack is None:
        packed: list[bytes] = connection.pack_commands(commands)
        return packed
    return [_pack(words) for words in commands]
