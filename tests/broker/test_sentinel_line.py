from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio.connection import Connection, ConnectionPool
from redis.exceptions import AuthenticationError, ResponseError

from asynqpy.broker import sentinel_line
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.sentinel_line import SentinelLine, View, view_of
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.topologies.sentinel import MASTER, start_replicated, start_sentinel

STATE = {
    b"ip": b"10.0.0.1",
    b"port": b"6379",
    b"flags": b"master",
    b"config-epoch": b"7",
}


@pytest.fixture(scope="module")
def master() -> Iterator[RedisProcess]:
    with start_redis() as server:
        yield server


@pytest.fixture
def sentinel(master: RedisProcess) -> Iterator[RedisProcess]:
    with start_sentinel(master.port, MASTER, 1, f"sentinel config-epoch {MASTER} 7") as sentinel:
        yield sentinel


class Lines:
    """Makes lines, which are stopped with the test."""

    def __init__(self) -> None:
        self.switches = 0
        self._made: list[SentinelLine] = []

    def start(self, port: int, master: str = MASTER, **options: Any) -> SentinelLine:
        pool = ConnectionPool(Connection, host=HOST, port=port, protocol=2, **options)
        line = SentinelLine(Endpoint(HOST, port), pool, master, self._count)
        self._made.append(line)
        line.start()
        return line

    def _count(self) -> None:
        self.switches += 1

    async def stop(self) -> None:
        tasks = [task for line in self._made if (task := line.stop()) is not None]
        if tasks:
            await asyncio.wait(tasks)


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    lines = Lines()
    yield lines
    await lines.stop()


def test_a_view_is_read_of_both_protocols() -> None:
    address = [b"10.0.0.1", b"6379"]
    view = View(7, Endpoint("10.0.0.1", 6379), False)
    assert view_of(STATE, address) == view
    assert view_of([word for pair in STATE.items() for word in pair], address) == view


@pytest.mark.parametrize("flag", [b"s_down", b"o_down"])
def test_a_master_that_is_down_is_known_as_such(flag: bytes) -> None:
    state = STATE | {b"flags": b"master," + flag}
    view = view_of(state, [b"10.0.0.1", b"6379"])
    assert isinstance(view, View)
    assert view.is_down


def test_the_heir_is_not_taken_for_the_dead_master_whose_state_is_told_with_it() -> None:
    state = STATE | {b"flags": b"master,s_down,o_down,failover_in_progress"}
    view = view_of(state, [b"10.0.0.2", b"6380"])
    assert view == View(7, Endpoint("10.0.0.2", 6380), False)


def test_no_address_is_an_error() -> None:
    assert isinstance(view_of(STATE, None), ResponseError)


async def test_a_sentinel_tells_who_is_the_master_as_often_as_it_is_asked(
    lines: Lines, sentinel: RedisProcess, master: RedisProcess
) -> None:
    line = lines.start(sentinel.port)
    view = View(7, Endpoint(HOST, master.port), False)
    assert [await line.ask() for _ in range(3)] == [view] * 3


async def test_all_who_ask_at_once_share_an_answer(lines: Lines, sentinel: RedisProcess) -> None:
    line = lines.start(sentinel.port)
    assert line.ask() is line.ask()
    await line.ask()


async def test_a_master_that_nobody_knows_is_no_reason_to_hang_up(
    lines: Lines, sentinel: RedisProcess
) -> None:
    line = lines.start(sentinel.port, "nobody")
    for _ in range(2):
        answer = await line.ask()
        assert "No such master" in str(answer)
    clients = str(sentinel.ask("INFO", "clients"))
    assert "'connected_clients': 2" in clients  # this one, and the line


async def test_a_wrong_password_is_told(lines: Lines, master: RedisProcess) -> None:
    with start_sentinel(
        master.port, MASTER, 1, "requirepass watch", ask_with={"password": "watch"}
    ) as it:
        assert isinstance(await lines.start(it.port, password="wrong").ask(), AuthenticationError)
        assert isinstance(await lines.start(it.port).ask(), AuthenticationError)
        assert isinstance(await lines.start(it.port, password="watch").ask(), View)


@pytest.mark.parametrize("refused", ["hello", "subscribe"])
async def test_who_may_not_listen_asks(lines: Lines, master: RedisProcess, refused: str) -> None:
    user = f"user ann on >s3cret allchannels allkeys +@all -{refused}"
    with start_sentinel(master.port, MASTER, 1, user) as sentinel:
        line = lines.start(sentinel.port, username="ann", password="s3cret")
        for _ in range(2):
            assert isinstance(await line.ask(), View)


async def test_a_sentinel_that_is_away_is_tried_again_and_told_of_once(
    lines: Lines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "asynqpy")
    monkeypatch.setattr(sentinel_line, "_SPACING", 0.05)
    port = free_port()
    both = [lines.start(port), lines.start(port)]

    async def failures() -> bool:
        for line in both:
            assert isinstance(await line.ask(), Exception)
        await asyncio.sleep(0.06)
        return all(line._failures >= 4 for line in both)

    await eventually(failures, within=20)
    assert caplog.text.count("does not answer") == 1


async def test_a_failure_of_a_moment_ago_is_told_without_another_attempt(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_line, "_SPACING", 60.0)
    line = lines.start(free_port())
    first = await line.ask()
    assert isinstance(first, Exception)
    assert await line.ask() is first


async def test_a_sentinel_that_comes_back_answers_again(
    lines: Lines, master: RedisProcess, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_line, "_SPACING", 0.05)
    with start_sentinel(master.port, cwd=tmp_path) as sentinel:
        line = lines.start(sentinel.port)
        assert isinstance(await line.ask(), View)
        sentinel.kill()

        async def is_missed() -> bool:
            return isinstance(await line.ask(), Exception)

        await eventually(is_missed)
        sentinel.start_again()

        async def is_back() -> bool:
            return isinstance(await line.ask(), View)

        await eventually(is_back, within=20)


async def test_a_line_that_broke_while_idle_is_made_again_for_who_asks(
    lines: Lines, sentinel: RedisProcess
) -> None:
    line = lines.start(sentinel.port)
    view = await line.ask()
    for _ in range(3):
        sentinel.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: line._failures == 1)
        assert await line.ask() == view


async def test_a_frozen_sentinel_is_given_up(
    lines: Lines, sentinel: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_line, "ANSWER_TIMEOUT", 0.2)
    line = lines.start(sentinel.port)
    assert isinstance(await line.ask(), View)
    sentinel.pause()
    answer = await line.ask()
    assert isinstance(answer, TimeoutError)
    assert "no answer within 0.2 s" in str(answer)
    sentinel.resume()


async def test_stopping_hangs_up_and_leaves_no_question_open(
    lines: Lines, sentinel: RedisProcess
) -> None:
    line = lines.start(sentinel.port)
    await line.ask()
    question = line.ask()
    task = line.stop()
    assert task is not None
    await asyncio.wait([task])
    assert isinstance(await question, Exception | View)
    await eventually(lambda: "'connected_clients': 1" in str(sentinel.ask("INFO", "clients")))


async def test_another_master_is_told_by_every_sentinel(lines: Lines) -> None:
    with start_replicated(1) as replicated:
        everybody = [lines.start(sentinel.port) for sentinel in replicated.sentinels]
        strangers = lines.start(replicated.sentinels[0].port, "nobody")
        for line in (*everybody, strangers):
            await line.ask()
        assert lines.switches == 0
        heir = await asyncio.to_thread(replicated.fail_over)
        await eventually(lambda: lines.switches == len(everybody))
        for line in everybody:
            view = await line.ask()
            assert isinstance(view, View)
            assert (view.address.port, view.epoch) == (heir.port, 1)
