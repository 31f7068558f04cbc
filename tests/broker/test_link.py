from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker.link import Link, abort, leads_to
from asynqpy.broker.redis_url import Endpoint
from tests import single
from tests.eventually import eventually

pytestmark = single.ONE_CONNECTION


class Listener(Link):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.lost: list[Exception] = []

    def _hear(self, reply: Any) -> None:
        self.heard.append(reply)

    def _lost(self, error: Exception) -> None:
        self.lost.append(error)


async def connected(url: str) -> AbstractConnection:
    connection: AbstractConnection = ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()  # type: ignore[no-untyped-call]
    return connection


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[Listener]:
    link = Listener.take_over(await connected(redis_url))
    yield link
    link.close()
    await eventually(lambda: link.lost)


async def test_replies_come_in_order_and_errors_are_redis_pys(link: Listener) -> None:
    link.write(b"PING\r\nEVALSHA 0 0\r\nNONSENSE\r\nECHO two\r\n")
    await eventually(lambda: len(link.heard) == 4)
    assert (link.heard[0], link.heard[3]) == (b"PONG", b"two")
    assert [type(reply) for reply in link.heard[1:3]] == [NoScriptError, ResponseError]


async def test_a_reply_of_many_pieces_is_one(link: Listener) -> None:
    text = b"x" * 3_000_000
    link.write(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(text), text))
    await eventually(lambda: link.heard)
    assert link.heard == [text]
    assert link.unsent() == 0


async def test_a_false_of_resp3_is_a_reply(link: Listener) -> None:
    script = b"redis.setresp(3) return false"
    link.write(
        b"HELLO 3\r\n*3\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n$1\r\n0\r\nPING\r\n" % (len(script), script)
    )
    await eventually(lambda: len(link.heard) == 3)
    assert link.heard[1:] == [False, b"PONG"]


async def test_the_shell_of_redis_py_is_closed_and_warns_of_nothing(redis_url: str) -> None:
    connection = await connected(redis_url)
    link = Listener.take_over(connection)
    assert not connection.is_connected
    del connection
    gc.collect()
    link.write(b"PING\r\n")
    await eventually(lambda: link.heard == [b"PONG"])
    link.close()
    await eventually(lambda: link.lost)


async def test_close_is_told_once_and_can_be_repeated(link: Listener) -> None:
    link.close()
    assert not link.is_open
    link.close()
    await eventually(lambda: link.lost)
    assert len(link.lost) == 1
    assert isinstance(link.lost[0], RedisConnectionError)


async def test_what_redis_closes_is_lost(link: Listener) -> None:
    link.write(b"CLIENT ID\r\n")
    await eventually(lambda: link.heard)
    link.write(b"CLIENT KILL ID %d SKIPME no\r\n" % link.heard[0])
    await eventually(lambda: link.lost)
    assert not link.is_open


async def test_what_is_no_reply_of_redis_ends_it() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with suppress(OSError):
            await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        link = Listener.take_over(await a_silent_connection(server))
        link.write(b"PING\r\n")
        await eventually(lambda: link.lost)
        assert isinstance(link.lost[0], InvalidResponse)
        assert not link.is_open
        await ended.wait()


async def a_silent_connection(server: asyncio.Server) -> AbstractConnection:
    """One of redis-py's that has sent no command yet."""
    host, port = server.sockets[0].getsockname()
    pool = ConnectionPool(host=host, port=port)
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    await connection._connect()  # type: ignore[no-untyped-call]
    return connection


async def test_a_connection_that_has_said_what_nobody_asked_is_refused(redis_url: str) -> None:
    connection = await connected(redis_url)
    await connection.send_command("PING")
    reader: Any = connection._reader
    await eventually(lambda: reader._buffer)
    with pytest.raises(RedisConnectionError):
        Listener.take_over(connection)
    await connection.disconnect(nowait=True)


async def test_a_closed_connection_is_refused(redis_url: str) -> None:
    connection = await connected(redis_url)
    await connection.disconnect()
    with pytest.raises(RedisConnectionError):
        Listener.take_over(connection)


async def test_who_hangs_up_while_redis_py_greets_it_was_sent_nothing() -> None:
    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        pool = ConnectionPool(host=host, port=port, retry=Retry(NoBackoff(), 0))
        with pytest.raises(RedisConnectionError, match=r"connecting to .*: it hung up at once"):
            await Listener.connect(pool)


async def test_who_refuses_the_password_is_told_as_before(redis_url: str) -> None:
    pool = ConnectionPool.from_url(redis_url, username="ann", password="wrong")
    with pytest.raises(AuthenticationError):
        await Listener.connect(pool)


def test_on_uvloop_it_is_the_same(redis_url: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def exchange() -> None:
        link = Listener.take_over(await connected(redis_url))
        link.write(b"PING\r\n")
        await eventually(lambda: link.heard == [b"PONG"])
        link.write(b"*2\r\n$4\r\nECHO\r\n$3000000\r\n" + b"x" * 3_000_000 + b"\r\n")
        await eventually(lambda: len(link.heard) == 2)
        assert link.unsent() == 0
        link.write(b"CLIENT ID\r\n")
        await eventually(lambda: len(link.heard) == 3)
        link.write(b"CLIENT KILL ID %d SKIPME no\r\n" % link.heard[2])
        await eventually(lambda: link.lost)
        other = Listener.take_over(await connected(redis_url))
        other.close()
        await eventually(lambda: other.lost)

    uvloop.run(exchange())


async def test_who_connects_hears_of_the_connection_before_it_is_one(redis_url: str) -> None:
    begun: list[AbstractConnection] = []
    pool = ConnectionPool.from_url(redis_url)
    connecting = asyncio.ensure_future(Listener.connect(pool, begun.append))
    await asyncio.sleep(0)
    (connection,) = begun
    assert not connection.is_connected
    link = await connecting
    assert link.shell is connection
    assert leads_to(connection, Endpoint(connection.host, connection.port))  # type: ignore[attr-defined]
    assert not leads_to(connection, Endpoint("10.0.0.1", 6379))
    link.close()
    await eventually(lambda: link.lost)


async def test_aborted_connection_of_redis_pys_tells_whoever_reads(redis_url: str) -> None:
    connection = await connected(redis_url)
    reading = asyncio.ensure_future(connection.read_response())
    await asyncio.sleep(0)
    abort(connection)
    with pytest.raises(RedisConnectionError):
        await reading
    abort(connection)
