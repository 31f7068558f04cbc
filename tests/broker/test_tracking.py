from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from asynqpy.broker.connection import Connection
from asynqpy.broker.tracking import Changes, TrackingLine
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests import single
from tests.broker.conftest import Deployment
from tests.broker.cut_short import left_open
from tests.eventually import eventually
from tests.redis_process import HOST, free_port, start_redis

pytestmark = single.ONE_CONNECTION


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection.open(redis_url)
    yield connection
    await connection.close()


class Listener(list["int | Changes"]):
    """A line, and what was heard on it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.line = TrackingLine(connection, self.append)

    async def hears(self, count: int = 1) -> list[int | Changes]:
        """The next so many items."""
        async with asyncio.timeout(5):
            while len(self) < count:
                await self.line.wait(5)
        items, self[:] = self[:], []
        return items


@pytest.fixture
async def listener(connection: Connection) -> AsyncIterator[Listener]:
    listener = Listener(connection)
    await listener.line.open()
    yield listener
    await listener.line.close()


async def test_answers_and_changes_come_in_the_order_in_which_they_happened(
    listener: Listener, redis: Redis
) -> None:
    await state.ask(redis, "SET", "there", "1")
    listener.line.send([("EXISTS", "there", "absent"), ("EXISTS", "absent")])
    assert await listener.hears(2) == [1, 0]
    await state.ask(redis, "RPUSH", "absent", "1")
    await state.ask(redis, "DEL", "there")
    assert await listener.hears(2) == [[b"absent"], [b"there"]]


async def test_a_change_is_told_once_until_the_key_is_asked_for_again(
    listener: Listener, redis: Redis
) -> None:
    listener.line.send([("EXISTS", "k")])
    assert await listener.hears() == [0]
    for value in ("1", "2", "3"):
        await state.ask(redis, "SET", "k", value)
    assert await listener.hears() == [[b"k"]]
    listener.line.send([("EXISTS", "k")])
    assert await listener.hears() == [1]


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
async def test_a_flush_changes_everything(listener: Listener, redis: Redis, command: str) -> None:
    listener.line.send([("EXISTS", "k")])
    assert await listener.hears() == [0]
    await state.ask(redis, command)
    assert await listener.hears() == [None]


async def test_names_need_not_be_ascii(listener: Listener, redis: Redis) -> None:
    listener.line.send([("EXISTS", "asynq:{é}:pending")])
    assert await listener.hears() == [0]
    await state.ask(redis, "RPUSH", "asynq:{é}:pending", "1")
    assert await listener.hears() == [["asynq:{é}:pending".encode()]]


async def test_nothing_comes_of_a_quiet_line_and_nothing_is_lost(
    listener: Listener, redis: Redis
) -> None:
    listener.line.send([("EXISTS", "k")])
    assert await listener.hears() == [0]
    assert not await listener.line.wait(0.0)
    assert listener == []
    await state.ask(redis, "SET", "k", "1")
    assert await listener.hears() == [[b"k"]]


async def test_an_error_is_no_answer(listener: Listener) -> None:
    listener.line.send([("EXISTS",)])
    with pytest.raises(BrokerError, match="wrong number of arguments"):
        await listener.hears()


async def test_an_objection_of_who_listens_ends_the_line(connection: Connection) -> None:
    def object_to(item: int | Changes) -> None:
        raise BrokerError(f"not {item}")

    line = TrackingLine(connection, object_to)
    await line.open()
    line.send([("EXISTS", "k"), ("EXISTS", "k")])
    for timeout in (5, 0):
        with pytest.raises(BrokerError, match="not 0"):
            await line.wait(timeout)
    await line.close()


async def test_what_is_heard_while_nobody_waits_is_told_by_the_next_wait(
    listener: Listener, redis: Redis
) -> None:
    listener.line.send([("EXISTS", "k")])
    await eventually(lambda: listener == [0])
    assert await listener.line.wait(0)
    assert not await listener.line.wait(0)


async def test_a_broken_line_is_an_error(listener: Listener, redis: Redis) -> None:
    await state.ask(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(BrokerUnavailableError, match="broke the line of changes"):
        await listener.hears()


async def test_a_redis_that_is_away_is_an_error() -> None:
    connection = Connection.open(f"redis://{HOST}:{free_port()}/0")
    line = Listener(connection).line
    with pytest.raises(BrokerUnavailableError):
        await line.open()
    await line.close()
    await connection.close()


@pytest.mark.parametrize("denied", ["-client", "-client|tracking"])
async def test_an_acl_that_denies_it_is_told_in_the_words_of_redis(denied: str) -> None:
    with start_redis() as server:
        if "|" in denied and server.ask("INFO", "server")["redis_version"] < "7":
            pytest.skip("before Redis 7 an ACL cannot deny a part of a command")
        server.ask("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", denied)
        connection = Connection.open(f"redis://worker:secret@{server.address}/0")
        line = Listener(connection).line
        with pytest.raises(BrokerError, match=r"does not tell of changes.*permissions"):
            await line.open()
        await line.close()
        await connection.close()


async def test_wrong_credentials_are_told_as_such() -> None:
    with start_redis("--requirepass", "secret") as server:
        connection = Connection.open(f"redis://:wrong@{server.address}/0")
        line = Listener(connection).line
        with pytest.raises(BrokerAuthError):
            await line.open()
        await line.close()
        await connection.close()


@pytest.mark.parametrize("answer", [b"-ERR unknown command 'HELLO'\r\n", b"HTTP/1.1 400\r\n", b""])
async def test_a_proxy_that_knows_no_resp3_is_no_outage(answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if b"HELLO" in data:
                writer.write(answer * 2)
                break
            writer.write(b"+OK\r\n" * data.count(b"CLIENT"))
        writer.close()

    async with await asyncio.start_server(speak, HOST, 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        connection = Connection.open(f"redis://{HOST}:{port}/0")
        line = Listener(connection).line
        with pytest.raises(BrokerError) as refusal:
            await line.open()
        assert not isinstance(refusal.value, BrokerUnavailableError)
        assert not connection.breaker.is_open
        await line.close()
        await connection.close()


async def test_closing_may_be_repeated_and_comes_before_opening(connection: Connection) -> None:
    line = Listener(connection).line
    await line.close()
    await line.open()
    await line.close()
    await line.close()


@single.CALLERS_CLIENT
async def test_a_client_of_the_callers_keeps_its_own_connections(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        listener = Listener(Connection.open(client))
        await listener.line.open()
        listener.line.send([("EXISTS", "k")])
        assert await listener.hears() == [0]
        await client.set("k", "1")
        assert await listener.hears() == [[b"k"]]
        await listener.line.close()
        assert await client.get("k") == b"1"


@pytest.mark.parametrize(
    ("deployment", "moments"),
    [("single", range(0, 60, 2)), ("sentinel", range(0, 120, 4))],
    indirect=["deployment"],
)
async def test_nothing_stays_open_when_opening_and_then_closing_are_cancelled(
    deployment: Deployment, moments: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hold(connection: Connection) -> None:
        line = Listener(connection).line
        try:
            await line.open()
            await line.wait(60)
        finally:
            await line.close()

    assert await left_open(hold, deployment.url, moments, monkeypatch) == []
