from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from asynqpy.broker.connection import Connection
from asynqpy.broker.tracking import Changes, TrackingLine
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests.broker.conftest import Deployment
from tests.broker.cut_short import left_open
from tests.redis_process import HOST, free_port, start_redis


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection.open(redis_url)
    yield connection
    await connection.close()


@pytest.fixture
async def line(connection: Connection) -> AsyncIterator[TrackingLine]:
    line = TrackingLine(connection)
    await line.open()
    yield line
    await line.close()


async def heard(line: TrackingLine, count: int = 1) -> list[int | Changes]:
    items: list[int | Changes] = []
    async with asyncio.timeout(5):
        while len(items) < count:
            items += await line.receive(5)
    return items


async def test_answers_and_changes_come_in_the_order_in_which_they_happened(
    line: TrackingLine, redis: Redis
) -> None:
    await state.ask(redis, "SET", "there", "1")
    line.send([("EXISTS", "there", "absent"), ("EXISTS", "absent")])
    assert await heard(line, 2) == [1, 0]
    await state.ask(redis, "RPUSH", "absent", "1")
    await state.ask(redis, "DEL", "there")
    assert await heard(line, 2) == [[b"absent"], [b"there"]]


async def test_a_change_is_told_once_until_the_key_is_asked_for_again(
    line: TrackingLine, redis: Redis
) -> None:
    line.send([("EXISTS", "k")])
    assert await heard(line) == [0]
    for value in ("1", "2", "3"):
        await state.ask(redis, "SET", "k", value)
    assert await heard(line) == [[b"k"]]
    line.send([("EXISTS", "k")])
    assert await heard(line) == [1]


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
async def test_a_flush_changes_everything(line: TrackingLine, redis: Redis, command: str) -> None:
    line.send([("EXISTS", "k")])
    assert await heard(line) == [0]
    await state.ask(redis, command)
    assert await heard(line) == [None]


async def test_names_need_not_be_ascii(line: TrackingLine, redis: Redis) -> None:
    line.send([("EXISTS", "asynq:{é}:pending")])
    assert await heard(line) == [0]
    await state.ask(redis, "RPUSH", "asynq:{é}:pending", "1")
    assert await heard(line) == [["asynq:{é}:pending".encode()]]


async def test_nothing_comes_of_a_quiet_line_and_nothing_is_lost(
    line: TrackingLine, redis: Redis
) -> None:
    line.send([("EXISTS", "k")])
    assert await heard(line) == [0]
    assert await line.receive(0.0) == []
    await state.ask(redis, "SET", "k", "1")
    assert await heard(line) == [[b"k"]]


async def test_an_error_is_no_answer(line: TrackingLine) -> None:
    line.send([("EXISTS",)])
    with pytest.raises(BrokerError, match="wrong number of arguments"):
        await heard(line)


async def test_a_broken_line_is_an_error(line: TrackingLine, redis: Redis) -> None:
    await state.ask(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(BrokerUnavailableError, match="broke the line of changes"):
        await heard(line)


async def test_a_redis_that_is_away_is_an_error() -> None:
    connection = Connection.open(f"redis://{HOST}:{free_port()}/0")
    line = TrackingLine(connection)
    with pytest.raises(BrokerUnavailableError):
        await line.open()
    await line.close()
    await connection.close()


@pytest.mark.parametrize("denied", ["-client", "-client|tracking"])
async def test_an_acl_that_denies_it_is_told_in_the_words_of_redis(denied: str) -> None:
    with start_redis() as server:
        server.ask("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", denied)
        connection = Connection.open(f"redis://worker:secret@{server.address}/0")
        line = TrackingLine(connection)
        with pytest.raises(BrokerError, match=r"does not tell of changes.*permissions"):
            await line.open()
        await line.close()
        await connection.close()


async def test_wrong_credentials_are_told_as_such() -> None:
    with start_redis("--requirepass", "secret") as server:
        connection = Connection.open(f"redis://:wrong@{server.address}/0")
        line = TrackingLine(connection)
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
        line = TrackingLine(connection)
        with pytest.raises(BrokerError) as refusal:
            await line.open()
        assert not isinstance(refusal.value, BrokerUnavailableError)
        assert not connection.breaker.is_open
        await line.close()
        await connection.close()


async def test_closing_may_be_repeated_and_comes_before_opening(connection: Connection) -> None:
    line = TrackingLine(connection)
    await line.close()
    await line.open()
    await line.close()
    await line.close()


async def test_a_client_of_the_callers_keeps_its_own_connections(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        line = TrackingLine(Connection.open(client))
        await line.open()
        line.send([("EXISTS", "k")])
        assert await heard(line) == [0]
        await client.set("k", "1")
        assert await heard(line) == [[b"k"]]
        await line.close()
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
        line = TrackingLine(connection)
        try:
            await line.open()
            await line.receive(60)
        finally:
            await line.close()

    assert await left_open(hold, deployment.url, moments, monkeypatch) == []
