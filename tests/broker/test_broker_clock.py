from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.exchange import Told
from asynqpy.broker.scripts import Call
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, BrokerUnavailableError
from tests import redis_state as state
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.redis_process import HOST


async def test_the_clock_follows_redis(redis_url: str, redis: Redis) -> None:
    clock = Clock()
    clock.anchor(1_000.0, 0.0)
    broker = Broker(redis_url, clock)
    await broker.sync_clock()
    seconds, microseconds = await state.ask(redis, "TIME")
    assert clock.now() == pytest.approx(int(seconds) + int(microseconds) / 1e6, abs=1)
    assert clock.anchor_age() < 5
    await broker.close()


async def test_of_slow_answers_the_quickest_tells_the_time(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waited for a connection would put the clock ahead by half of the wait."""
    broker = Broker(redis_url)
    answers = iter([(1_000.0, 3.0), (1_003.0, 0.02), (1_005.0, 4.0), (9_999.0, 0.0)])

    async def redis_time() -> tuple[float, float]:
        return next(answers)

    monkeypatch.setattr(broker, "_redis_time", redis_time)
    await broker.sync_clock()
    assert broker.clock.now() == pytest.approx(1_003.01, abs=0.5)
    assert next(answers) == (9_999.0, 0.0)
    await broker.close()


@pytest.mark.parametrize(("age", "asks"), [(float("inf"), True), (61.0, True), (59.0, False)])
async def test_the_clock_is_anchored_again_when_that_was_long_ago(
    redis_url: str, redis: Redis, age: float, asks: bool
) -> None:
    class Aged(FakeClock):
        anchored = 0

        def anchor_age(self) -> float:
            return age

        def anchor(self, redis_time: float, round_trip: float) -> None:
            self.anchored += 1

    clock = Aged()
    broker = Broker(redis_url, clock)
    await broker.keep_clock()
    assert bool(clock.anchored) == asks
    await broker.close()


async def test_of_many_who_want_the_clock_anchored_one_asks_and_all_share_the_answer(
    redis_url: str,
) -> None:
    broker = Broker(redis_url)
    asked = count_calls(broker)
    await asyncio.gather(*(broker.keep_clock() for _ in range(20)))
    assert 1 <= len(asked) <= 3  # a slow round trip is repeated
    assert broker.clock.anchor_age() < 5
    await broker.close()


def count_calls(broker: Broker) -> list[object]:
    asked: list[object] = []
    run_all = broker._runner.run_all

    async def counting(
        calls: Sequence[Call[Any]], told: Told | None = None, *, patience: float = 0.0
    ) -> list[Any]:
        asked.append(calls)
        return await run_all(calls, told, patience=patience)

    broker._runner.run_all = counting  # type: ignore[method-assign]
    return asked


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """Of something that takes connections and never says a word."""
    ended = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, HOST, 0)
    yield f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"
    ended.set()
    server.close()
    await eventually(lambda: not anchoring())


def anchoring() -> list[str]:
    names = (task.get_name() for task in asyncio.all_tasks())
    return [name for name in names if name.startswith("asynqpy:")]


async def test_with_a_silent_redis_all_who_want_the_clock_fail_after_one_timeout(
    silent_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.broker.redis_client.SOCKET_TIMEOUT", 0.3)
    broker = Broker(silent_url)
    asked, started = count_calls(broker), time.monotonic()
    waits = [broker.keep_clock() for _ in range(20)]
    answers = await asyncio.gather(*waits, return_exceptions=True)
    assert time.monotonic() - started < 2
    assert {type(answer) for answer in answers} == {BrokerUnavailableError}
    assert len(asked) == 1
    assert anchoring() == []
    with pytest.raises(BrokerUnavailableError):
        await broker.keep_clock()
    assert len(asked) == 2
    await broker.close()


async def test_one_who_gives_up_waiting_for_the_clock_leaves_the_others_waiting(
    redis_url: str,
) -> None:
    broker = Broker(redis_url)
    first, second = (asyncio.create_task(broker.keep_clock()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert broker.clock.anchor_age() < 5
    await broker.close()


async def test_close_is_an_error_and_no_cancellation_for_who_waits_for_the_clock(
    silent_url: str,
) -> None:
    broker = Broker(silent_url)
    waiting = [asyncio.create_task(broker.keep_clock()) for _ in range(3)]
    await asyncio.sleep(0.05)
    await broker.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BrokerError] * 3
    assert "is closed" in str(answers[0])
    assert anchoring() == []
