from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError

from asynqpy.broker import exchange as module
from asynqpy.broker.connection import Connection
from asynqpy.broker.exchange import Command, DirectExchange, Exchange, PipelineExchange
from asynqpy.broker.link import Link
from asynqpy.broker.redis_url import Endpoint
from tests import single
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import ask

pytestmark = single.PROXIED


@pytest.fixture
async def direct(redis_url: str) -> AsyncIterator[DirectExchange]:
    connection = Connection.open(redis_url)
    assert isinstance(connection.exchange, DirectExchange)
    yield connection.exchange
    await connection.close()


@pytest.fixture
async def proxy(redis_server: RedisProcess, redis: Redis) -> AsyncIterator[RedisProxy]:
    async with RedisProxy.before(redis_server) as proxy:
        yield proxy


@pytest.fixture
async def through_proxy(proxy: RedisProxy) -> AsyncIterator[DirectExchange]:
    connection = Connection.open(proxy.url)
    assert isinstance(connection.exchange, DirectExchange)
    yield connection.exchange
    await connection.close()


@pytest.fixture(params=["direct", "pipeline"])
async def either(
    request: pytest.FixtureRequest, redis: Redis, redis_url: str
) -> AsyncIterator[Exchange]:
    """One of a URL's client, and one of a client of the caller's."""
    connection = Connection.open(redis_url if request.param == "direct" else redis)
    kind = DirectExchange if request.param == "direct" else PipelineExchange
    assert isinstance(connection.exchange, kind)
    yield connection.exchange
    await connection.close()


async def test_answers_and_errors_come_in_the_order_of_the_commands(either: Exchange) -> None:
    first, wrong, number, text = await either.send(
        [("SET", "k", "7"), ("LPUSH", "k", "x"), ("INCR", "k"), ("GET", b"k")]
    )
    assert (first, number, text) == (True, 8, b"8")
    assert isinstance(wrong, ResponseError)
    assert "WRONGTYPE" in str(wrong)


async def test_words_may_be_text_bytes_and_numbers(either: Exchange) -> None:
    words = ("RPUSH", "list", "é", b"\xff\x00", 12, -1.5, 0.1)
    _, answer = await either.send([words, ("LRANGE", "list", 0, -1)])
    assert answer == ["é".encode(), b"\xff\x00", b"12", b"-1.5", b"0.1"]


async def test_commands_are_the_same_where_hiredis_cannot_pack(
    direct: DirectExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_pack", None)
    _, answer = await direct.send([("RPUSH", "list", "é", b"\xff", 3), ("LRANGE", "list", 0, -1)])
    assert answer == ["é".encode(), b"\xff", b"3"]


async def test_answers_are_read_as_redis_py_reads_them(either: Exchange) -> None:
    seconds, info, pong = await either.send([("TIME",), ("INFO", "server"), ("PING",)])
    assert all(isinstance(part, int) for part in seconds)
    assert isinstance(info["process_id"], int)
    assert pong is True


async def test_one_connection_serves_one_exchange_after_the_other(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    for _ in range(20):
        await through_proxy.send([("PING",)])
    assert proxy.connections == 1


async def test_exchanges_at_once_have_a_connection_each_and_keep_their_answers_apart(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    asked = [[("ECHO", f"{n}-{m}") for m in range(20)] for n in range(10)]
    answers = await asyncio.gather(*(through_proxy.send(commands) for commands in asked))
    assert answers == [[f"{n}-{m}".encode() for m in range(20)] for n in range(10)]
    assert 1 < proxy.connections <= 10
    before = proxy.connections
    await asyncio.gather(*(through_proxy.send([("PING",)]) for _ in range(before)))
    assert proxy.connections == before


@single.OVERHEARD
async def test_a_connection_that_was_given_up_is_not_used_again(
    through_proxy: DirectExchange, proxy: RedisProxy, redis: Redis
) -> None:
    """Its answer would be taken for that of the next command."""
    await through_proxy.send([("PING",)])
    waiting = asyncio.create_task(through_proxy.send([("BLPOP", "nothing", 0)]))
    await eventually(lambda: len(proxy.requests) >= 2 and b"BLPOP" in proxy.requests[-1])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await through_proxy.send([("ECHO", "mine")]) == [b"mine"]
    assert proxy.connections == 2

    async def is_none_blocked() -> bool:
        return not (await redis.info("clients"))["blocked_clients"]

    await eventually(is_none_blocked)  # it was closed


async def test_a_connection_that_redis_closed_while_idle_is_noticed_before_anything_is_sent(
    direct: DirectExchange, redis: Redis
) -> None:
    await direct.send([("PING",)])
    (idle,) = direct._idle
    await ask(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await eventually(lambda: not idle.is_open)
    assert await direct.send([("INCR", "n")]) == [1]
    assert direct._idle != [idle]


async def test_a_connection_that_breaks_is_an_error_and_nothing_is_sent_again(
    through_proxy: DirectExchange, proxy: RedisProxy, redis: Redis
) -> None:
    await through_proxy.send([("PING",)])
    proxy.loses_replies = True
    with pytest.raises(ConnectionError):
        await through_proxy.send([("INCR", "n")])
    proxy.loses_replies = False
    assert await redis.get("n") == b"1"
    assert await through_proxy.send([("INCR", "n")]) == [2]


async def test_silence_ends_with_a_timeout(
    redis: Redis, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.broker.redis_client.SOCKET_TIMEOUT", 0.1)
    connection = Connection.open(proxy.url)
    await connection.exchange.send([("PING",)])
    proxy.swallows_replies = True
    with pytest.raises(TimeoutError):
        await connection.exchange.send([("PING",)])
    proxy.swallows_replies = False
    assert await connection.exchange.send([("ECHO", "new")]) == [b"new"]
    await connection.close()


async def test_many_answers_may_take_longer_than_one(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time-out is for each of them: 1.6 s of waits under one of 0.4 s."""
    monkeypatch.setattr("asynqpy.broker.redis_client.SOCKET_TIMEOUT", 0.4)
    connection = Connection.open(redis_url)
    answers = await connection.exchange.send([("BLPOP", "nothing", 0.1)] * 16)
    assert answers == [None] * 16
    await connection.close()


async def test_after_forget_idle_the_next_exchange_connects_anew(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    await through_proxy.send([("PING",)])
    await through_proxy.forget_idle()
    await through_proxy.send([("PING",)])
    assert proxy.connections == 2


async def test_close_ends_what_is_under_way(direct: DirectExchange, redis: Redis) -> None:
    waiting = asyncio.create_task(direct.send([("BLPOP", "nothing", 0)]))

    async def is_blocked() -> Any:
        return (await redis.info("clients"))["blocked_clients"]

    await eventually(is_blocked)
    await direct.close()
    await direct.close()
    with pytest.raises((ConnectionError, ResponseError, OSError)):
        await waiting
    assert not direct._idle
    assert not direct._talking


async def test_close_may_be_repeated_at_any_moment_of_a_connect(proxy: RedisProxy) -> None:
    for turns in range(6):
        connection = Connection.open(proxy.url)
        sending = asyncio.create_task(connection.exchange.send([("PING",)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await connection.exchange.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        await connection.exchange.close()
        await asyncio.gather(sending, return_exceptions=True)
        await connection.close()


async def test_what_begins_after_close_connects_no_more(proxy: RedisProxy) -> None:
    connection = Connection.open(proxy.url)
    await connection.close()
    with pytest.raises(ConnectionError, match="closed while it connected"):
        await connection.exchange.send([("PING",)])
    assert proxy.connections == 0


async def test_what_is_left_to_be_sent_is_no_sign_of_life(proxy: RedisProxy) -> None:
    connection = Connection.open(proxy.url)
    exchange = connection.exchange
    assert isinstance(exchange, DirectExchange)
    assert exchange.heard_at == 0
    await exchange.send([("PING",)])
    heard_at = exchange.heard_at
    assert heard_at > 0
    answer = exchange.begin([("SET", "k", b"x" * 30_000_000)])
    assert answer is not None
    assert exchange.heard_at == heard_at
    assert await answer == [True]
    assert exchange.heard_at > heard_at
    await connection.close()


@pytest.mark.parametrize("turns", range(12))
async def test_close_at_any_moment_of_a_connect_is_one_error_and_leaves_no_connection(
    proxy: RedisProxy, turns: int
) -> None:
    """redis-py's ``disconnect`` in the midst of its handshake makes it connect again, or stumble over itself."""
    connection = Connection.open(proxy.url)
    assert isinstance(connection.exchange, DirectExchange)
    sending = asyncio.create_task(connection.exchange.send([("PING",)]))
    for _ in range(turns):
        await asyncio.sleep(0)
    await connection.close()
    async with asyncio.timeout(5):
        outcome = (await asyncio.gather(sending, return_exceptions=True))[0]
    assert outcome == [True] or isinstance(outcome, ConnectionError)
    assert not connection.exchange._idle


@pytest.mark.parametrize("turns", range(1, 20))
async def test_close_at_any_moment_of_a_connect_to_a_silent_redis_waits_for_no_time_out(
    proxy: RedisProxy, turns: int
) -> None:
    """A cancellation may get lost in the handshake of redis-py, which then waits for as long as Redis may take."""
    proxy.swallows_replies = True
    connection = Connection.open(proxy.url)
    sending = asyncio.create_task(connection.exchange.send([("PING",)]))
    for _ in range(turns):
        await asyncio.sleep(0)
    await connection.close()
    async with asyncio.timeout(5):  # the time-out of a connection is 10 s
        outcome = (await asyncio.gather(sending, return_exceptions=True))[0]
    assert isinstance(outcome, ConnectionError)
    assert "closed while it connected" in str(outcome)


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    served: list[bool] = []

    async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await until_closed(reader):
            if b"ECHO" not in asked:
                writer.write(b"+OK\r\n" * asked.count(b"*"))
                continue
            word = asked.split(b"\r\n")[-2]
            writer.write(b"+%s\r\n" % word)
            if word == b"dup":
                writer.write(b"+extra\r\n")
        writer.close()
        served.append(True)

    server = await asyncio.start_server(answer_twice, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    connection = Connection.open(f"redis://{HOST}:{port}/0")
    exchange = connection.exchange
    assert isinstance(exchange, DirectExchange)
    words = ["a", "dup", "b", "c"]
    answers = []
    for word in words:
        answers += await exchange.send([("ECHO", word)])
        if word == "dup":
            await eventually(lambda: not any(channel.is_open for channel in exchange._idle))
    assert answers == [word.encode() for word in words]
    await connection.close()
    await eventually(lambda: len(served) == 2)
    server.close()


async def test_each_answer_has_its_time(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes 1.5 s after the start, under a time-out of 1 s."""
    monkeypatch.setattr("asynqpy.broker.redis_client.SOCKET_TIMEOUT", 1.0)
    connection = Connection.open(redis_url)
    await connection.exchange.send([("PING",)])
    answers = await connection.exchange.send([("BLPOP", "nothing", 0.7), ("BLPOP", "nothing", 0.8)])
    assert answers == [None, None]
    await connection.close()


def test_in_another_event_loop_nothing_is_sent(redis_url: str) -> None:
    exchange = DirectExchange(Redis.from_url(redis_url))
    with asyncio.Runner() as first:
        assert first.run(exchange.send([("SET", "n", 1)])) == [True]
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="different event loop"):
            second.run(exchange.send([("INCR", "n")]))
        assert first.run(exchange.send([("GET", "n")])) == [b"1"]
        first.run(exchange.close())


# Answers that are told early.


async def test_each_answer_is_told_once_with_its_place_and_in_order(direct: DirectExchange) -> None:
    told: list[tuple[int, Any]] = []
    commands: list[Command] = [
        ("SET", "k", "x" * 3_000),
        ("STRLEN", "k"),
        ("LPUSH", "k", "x"),
        ("PING",),
    ]
    answers = await direct.send(commands, lambda *answer: told.append(answer))
    assert told == list(enumerate(answers))
    assert answers[:2] == [True, 3_000]
    assert isinstance(answers[2], ResponseError)


async def test_an_answer_is_told_while_the_next_is_awaited_and_stands_when_that_fails(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    told: list[tuple[int, Any]] = []
    commands: list[Command] = [("SET", "k", "x" * 3_000), ("BLPOP", "nothing", 0)]
    sending = asyncio.create_task(through_proxy.send(commands, lambda *it: told.append(it)))
    await eventually(lambda: told == [(0, True)])
    assert not sending.done()
    proxy.cut()
    with pytest.raises(ConnectionError):
        await sending
    assert told == [(0, True)]


async def test_small_commands_are_written_together_also_when_answers_are_told_early(
    through_proxy: DirectExchange, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    honest = module._Channel.write

    def counted(channel: Link, data: bytes) -> None:
        writes.append(data.count(b"*"))
        honest(channel, data)

    monkeypatch.setattr(module._Channel, "write", counted)
    large = ("SET", "k", "x" * 3_000)
    await through_proxy.send([("PING",)] * 3 + [large, ("PING",), large], lambda *_: None)
    await through_proxy.send([large, large])
    assert writes == [4, 2, 2]


async def test_an_error_of_who_is_told_is_raised_and_the_connection_given_up(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    def object_to(place: int, reply: object) -> None:
        raise ValueError(f"not {reply}")

    with pytest.raises(ValueError, match="not True"):
        await through_proxy.send([("PING",), ("PING",)], object_to)
    assert await through_proxy.send([("ECHO", "x")]) == [b"x"]
    assert proxy.connections == 2


async def test_no_commands_have_no_answers(direct: DirectExchange) -> None:
    assert await direct.send([]) == []


class Channel(module._Channel):
    """One without a network: a test says how much is unsent, and what time it is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open, self.left, self.now = True, 0, 100.0
        self.looks: list[float] = []

    def write(self, data: bytes) -> None:
        self.left = len(data)

    def unsent(self) -> int:
        return self.left

    def _look_in(self, delay: float, timeout: float) -> None:
        self.looks.append(round(delay, 6))


async def test_what_the_network_takes_slowly_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: channel.now)
    asking = asyncio.ensure_future(channel.begin([("SET", "k", "x" * 1_000)], None, 5.0))
    await asyncio.sleep(0)
    for left in (900, 100, 0):  # of which some has gone since the last look
        channel.left, channel.now = left, channel.now + 5.0
        channel._look(5.0)
    channel.now += 2.0
    channel._look(5.0)
    assert channel.looks == [5.0, 5.0, 5.0, 5.0, 3.0]
    channel.now += 3.0
    channel._look(5.0)
    with pytest.raises(TimeoutError, match=r"5\.0 s"):
        await asking


async def test_a_redis_that_does_not_know_us_any_more_is_asked_on_a_new_connection() -> None:
    answers = [b"-NOAUTH Authentication required.\r\n", b"+fine\r\n"]
    ended = asyncio.Semaphore(0)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await until_closed(reader):
            writer.write(answers.pop(0) if b"ECHO" in asked else b"+OK\r\n" * asked.count(b"*"))
        writer.close()
        ended.release()

    async with await asyncio.start_server(speak, HOST, 0) as server:
        connection = Connection.open(f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0")
        with pytest.raises(AuthenticationError):
            await connection.exchange.send([("ECHO", "x")])
        await ended.acquire()  # the first connection is closed
        assert await connection.exchange.send([("ECHO", "x")]) == [b"fine"]
        await connection.close()
        await ended.acquire()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What comes next; nothing once the other end has hung up, whichever way."""
    with suppress(OSError):
        return await reader.read(65_536)
    return b""


async def test_what_leads_to_an_address_is_dropped_and_nothing_else(
    through_proxy: DirectExchange, proxy: RedisProxy, redis: Redis
) -> None:
    here, elsewhere = Endpoint(HOST, proxy.port), Endpoint(HOST, proxy.port + 1)
    assert not through_proxy.leads_to(here)
    waiting = asyncio.ensure_future(through_proxy.send([("BLPOP", "nothing", "0")]))
    await through_proxy.send([("PING",)])
    assert through_proxy.leads_to(here)
    assert not through_proxy.leads_to(elsewhere)
    through_proxy.hang_up(elsewhere)
    await through_proxy.send([("PING",)])
    assert proxy.connections == 2
    through_proxy.hang_up(here)
    assert not through_proxy.leads_to(here)
    with pytest.raises(ConnectionError):
        await waiting
    await through_proxy.send([("PING",)])
    assert proxy.connections == 3


async def test_what_is_about_to_lead_there_is_dropped_too(
    through_proxy: DirectExchange, proxy: RedisProxy
) -> None:
    proxy.swallows_replies = True
    connecting = asyncio.ensure_future(through_proxy.send([("PING",)]))
    await eventually(lambda: proxy.connections)
    began = asyncio.get_running_loop().time()
    through_proxy.hang_up(Endpoint(HOST, proxy.port))
    with pytest.raises(ConnectionError):
        await connecting
    assert asyncio.get_running_loop().time() - began < 5


async def test_of_what_is_dropped_at_any_moment_of_a_connect_nothing_stays(
    proxy: RedisProxy,
) -> None:
    for moment in range(0, 40, 2):
        exchange = Connection.open(proxy.url).exchange
        assert isinstance(exchange, DirectExchange)
        connecting = asyncio.ensure_future(exchange.send([("PING",)]))
        for _ in range(moment):
            await asyncio.sleep(0)
        was_connecting = bool(exchange._connecting)
        exchange.hang_up(Endpoint(HOST, proxy.port))
        await asyncio.wait([connecting])
        if was_connecting:
            assert isinstance(connecting.exception(), ConnectionError), moment
            assert not exchange.leads_to(Endpoint(HOST, proxy.port))
        await exchange.close()


async def test_of_a_client_of_the_callers_only_what_is_in_use_here_is_dropped(
    proxy: RedisProxy,
) -> None:
    address = Endpoint(HOST, proxy.port)
    async with Redis.from_url(proxy.url, protocol=2) as theirs:
        exchange = PipelineExchange(theirs)
        await exchange.send([("PING",)])
        assert exchange.loop is asyncio.get_running_loop()
        assert not exchange.leads_to(address)
        own = asyncio.ensure_future(theirs.blpop(["nothing"]))
        ours = asyncio.ensure_future(exchange.send([("BLPOP", "nothing", "0")]))
        await eventually(lambda: exchange.leads_to(address))
        made = proxy.connections
        exchange.hang_up(address)
        # Whether it tries again is up to their client.
        await eventually(lambda: ours.done() or proxy.connections > made)
        assert not own.done()
        for waiting in (own, ours):
            waiting.cancel()
        await asyncio.wait([own, ours])
