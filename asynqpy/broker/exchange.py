"""One round trip: many commands go out together, and an answer or an error comes back for each.

A client of ours talks through connections that are kept here rather than in redis-py's pool, whose checks, locks and
timers around each command cost more than the command, and that are read here (``link.py``). What a connection is
(address, TLS, password, the master that sentinels name) stays redis-py's own matter. A client of the caller's, and a
cluster's, talk through its pipeline.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from asynqpy.broker.link import CLOSED, Link, abort, leads_to
from asynqpy.broker.redis_url import Endpoint

Word: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Word, ...]

#: Told the place of a command and its answer, or its ``ResponseError``, as soon as that is read.
Told: TypeAlias = Callable[[int, Any], None]

#: How redis-py reads the answers of commands.
_Callbacks: TypeAlias = Mapping[str, Callable[[Any], Any]]

#: Fewest bytes of commands that are written by themselves when answers are wanted early. Redis answers together what it
#: reads together.
_EARLY_BYTES = 2_048

#: Seconds that a connection has to give itself up while it is made.
_ABORT_AFTER = 0.2

_CLOSED_EARLY = "closed while it connected"

#: Packs a command in C; early versions of hiredis only read.
_pack = getattr(hiredis, "pack_command", None)

#: What Redis says of its own accord; early versions of hiredis know no such thing.
_Push = getattr(hiredis, "PushNotification", None)


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
        self.loop: asyncio.AbstractEventLoop | None = None
        self._talking: set[Any] = set()

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        self.loop = self.loop or asyncio.get_running_loop()
        async with self._client.pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            self._talking.add(pipeline)
            try:
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            finally:
                self._talking.discard(pipeline)
        return replies

    def leads_to(self, address: Endpoint) -> bool:
        """Whether a connection to it is in use here; of others the client knows."""
        return bool(self._connections_to(address))

    def hang_up(self, address: Endpoint) -> None:
        """Drop connections to it that are in use here. Others are the client's matter."""
        for connection in self._connections_to(address):
            abort(connection)

    def _connections_to(self, address: Endpoint) -> list[AbstractConnection]:
        used = [getattr(pipeline, "connection", None) for pipeline in list(self._talking)]
        return [it for it in used if it is not None and leads_to(it, address)]

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
        self._callbacks = cast(_Callbacks, client.response_callbacks)
        self._timeout: float | None = self._pool.connection_kwargs.get("socket_timeout")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[_Channel] = []
        self._connecting: dict[asyncio.Timeout, AbstractConnection] = {}
        self._talking: set[_Channel] = set()
        self._heard_at = 0.0
        self._is_closed = False

    async def send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        self._check_loop()
        if not commands:
            return []
        channel = self._take_idle() or await self._connected()
        return await self._begin(channel, commands, told)

    def begin(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]] | None:
        """As ``send``, without a task: the commands are on their way when this returns. None if it has to connect.

        Whoever no longer wants the answer ends the future, and so the connection.
        """
        self._check_loop()
        channel = self._take_idle()
        return None if channel is None else self._begin(channel, commands, None)

    def _begin(
        self, channel: _Channel, commands: Sequence[Command], told: Told | None
    ) -> asyncio.Future[list[Any]]:
        answer = channel.begin(commands, told, self._timeout)
        self._talking.add(channel)
        return answer

    def _ended(self, channel: _Channel, is_good: bool) -> None:
        self._talking.discard(channel)
        if is_good:
            self._heard_at = channel.moved_at()
        # Of one that was given up the answers would be taken for those of the next.
        if self._is_closed or not is_good:
            channel.close()
        elif channel.is_open:
            self._idle.append(channel)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("its connections are attached to a different event loop")

    def _take_idle(self) -> _Channel | None:
        """The one that was used last and is still good."""
        while self._idle:
            channel = self._idle.pop()
            if channel.is_open:
                return channel
        return None

    async def _connected(self) -> _Channel:
        if self._is_closed:
            raise RedisConnectionError(_CLOSED_EARLY)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                begun = partial(self._connecting.__setitem__, limit)
                channel = await _Channel.connect(self._pool, begun)
        except (TimeoutError, RedisConnectionError):
            # Given up; redis-py has a time-out of its own for a Redis that is slow.
            if limit not in self._connecting:
                raise RedisConnectionError(_CLOSED_EARLY) from None
            raise
        finally:
            is_wanted = self._connecting.pop(limit, None) is not None
        if not is_wanted:
            channel.close()
            raise RedisConnectionError(_CLOSED_EARLY)
        channel.callbacks, channel.ended = self._callbacks, self._ended
        return channel

    def leads_to(self, address: Endpoint) -> bool:
        """Whether anything is connected to it."""
        channels = (*list(self._idle), *list(self._talking))
        return any(it.is_open and leads_to(it.shell, address) for it in channels)

    def hang_up(self, address: Endpoint) -> None:
        """Drop what is connected to it, or about to be; exchanges under way end with an error of redis-py's."""
        for limit, connection in list(self._connecting.items()):
            if leads_to(connection, address):
                del self._connecting[limit]
                _give_up(limit, connection)
        for channel in (*self._idle, *self._talking):
            if leads_to(channel.shell, address):
                channel.close()

    async def forget_idle(self) -> None:
        self.drop_idle()

    def drop_idle(self) -> None:
        """As ``forget_idle``, without a wait."""
        while self._idle:
            self._idle.pop().close()

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self._talking or self._connecting)

    @property
    def heard_at(self) -> float:
        """When Redis last answered or took something, by the clock of the event loop; 0 if it never did."""
        return max(self._heard_at, *(it.moved_at() for it in self._talking), 0.0)

    async def close(self) -> None:
        """What is under way ends with an error of redis-py's."""
        self.close_at_once()

    def close_at_once(self) -> None:
        """As ``close``, without a wait."""
        self._is_closed = True
        self.drop_idle()
        # Not by ``disconnect``: redis-py would connect again, in the midst of its own handshake.
        while self._connecting:
            _give_up(*self._connecting.popitem())
        for channel in list(self._talking):
            channel.close()


def _give_up(limit: asyncio.Timeout, connection: AbstractConnection) -> None:
    """Have what connects within ``limit`` end at once."""
    limit.reschedule(0)
    # Which may get lost in the handshake: of redis-py, or of ``asyncio.wait_for``.
    asyncio.get_running_loop().call_later(_ABORT_AFTER, abort, connection)


class _Channel(Link):
    """One connection, for one exchange at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: _Callbacks = {}
        self._commands: Sequence[Command] = ()
        self._told: Told | None = None
        self._replies: list[Any] = []
        self._answer: asyncio.Future[list[Any]] | None = None
        #: Told whether an exchange went well, before whoever waits for it; otherwise this is of no use any more.
        self.ended: Callable[[_Channel, bool], object] = lambda *_: None
        self._timer: asyncio.TimerHandle | None = None
        self._began_at = self._heard_at = 0.0
        self._unsent = 0

    def begin(
        self, commands: Sequence[Command], told: Told | None, timeout: float | None
    ) -> asyncio.Future[list[Any]]:
        """As ``DirectExchange.begin``; Redis has ``timeout`` s for each reply."""
        if not self.is_open:
            raise RedisConnectionError(CLOSED)
        loop = asyncio.get_running_loop()
        self._commands, self._told, self._replies = commands, told, []
        answer = self._answer = loop.create_future()
        answer.add_done_callback(self._given_up)
        self._began_at = loop.time()
        if timeout is not None:
            self._look_in(timeout, timeout)
        try:
            for packed in self._writes():
                self.write(packed)
            self._unsent = self.unsent()
        except BaseException:
            answer.cancel()
            self._end(False)
            self.close()
            raise
        return answer

    def _given_up(self, answer: asyncio.Future[list[Any]]) -> None:
        """Whoever waited for the answer has ended it, unless it came."""
        if self._answer is answer:
            self._end(False)

    def _end(self, is_good: bool) -> asyncio.Future[list[Any]] | None:
        """Nothing is asked any more; the answer that is to be given, if it is still waited for."""
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
        if answer is not None:
            self.ended(self, is_good)
        return None if answer is None or answer.done() else answer

    def _look_in(self, delay: float, timeout: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._look, timeout)

    def moved_at(self) -> float:
        """When the latest reply came, or the network was seen to take something of a long pipeline; 0 for never."""
        unsent = self.unsent()
        if unsent < self._unsent:
            self._heard_at, self._unsent = asyncio.get_running_loop().time(), unsent
        return self._heard_at

    def _look(self, timeout: float) -> None:
        """Each reply has its time; and a long pipeline, while the network takes some of it."""
        left = max(self._began_at, self.moved_at()) + timeout - asyncio.get_running_loop().time()
        if left > 0:
            self._look_in(left, timeout)
        else:
            self._lost(RedisTimeoutError(f"no answer within {timeout} s"))

    def _writes(self) -> Iterator[bytes]:
        """The commands packed: together or, for early answers, in runs. Redis works on one while the next is packed."""
        least = sys.maxsize if self._told is None else _EARLY_BYTES
        run: list[bytes] = []
        size = 0
        for words in self._commands:
            packed = self._packed(words)
            run.append(packed)
            size += len(packed)
            if size >= least:
                yield b"".join(run)
                run, size = [], 0
        if run:
            yield b"".join(run)

    def _packed(self, words: Command) -> bytes:
        return b"".join(self.shell.pack_command(*words)) if _pack is None else _pack(words)

    def _hear(self, reply: Any) -> None:
        if _Push is not None and isinstance(reply, _Push):
            return  # of RESP3, where a URL asks for it: no answer
        if self._answer is None or self._answer.done():
            self.close()  # what nobody asked for would pass for the next answer
            return
        if isinstance(reply, RedisConnectionError):
            self._lost(reply)  # Redis loads its data, or knows us no longer
            return
        place = len(self._replies)
        try:
            self._replies.append(self._read(self._commands[place][0], reply))
            if self._told is not None:
                self._told(place, self._replies[place])
        except Exception as error:
            self._lost(error)
            return
        self._heard_at = asyncio.get_running_loop().time()
        if place + 1 == len(self._commands) and (answer := self._end(True)):
            answer.set_result(self._replies)

    def _read(self, name: Word, reply: Any) -> Any:
        callback = None if name == "EVALSHA" else self.callbacks.get(str(name))
        return reply if callback is None or isinstance(reply, RedisError) else callback(reply)

    def _lost(self, error: Exception) -> None:
        if answer := self._end(False):
            answer.set_exception(error)
