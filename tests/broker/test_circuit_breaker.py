from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from asynqpy.broker import circuit_breaker
from asynqpy.broker.circuit_breaker import CircuitBreaker, breaker_of
from asynqpy.errors import BrokerUnavailableError
from tests.eventually import eventually


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the real times."""
    monkeypatch.setattr(circuit_breaker, "_SPACING", (0.1, 0.15))
    monkeypatch.setattr(circuit_breaker, "_PATIENCE", 0.2)
    monkeypatch.setattr(circuit_breaker, "_LONGEST_WAIT", 0.35)
    monkeypatch.setattr(circuit_breaker, "_STALE_PROBE", 0.6)


class FakeRedis:
    """What a probe meets."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker("redis:6379/0")
        self.is_up = False
        self.probes: list[float] = []
        self.hangs: Callable[[], Awaitable[object]] | None = None

    def fail(self, *, refused: bool = False, certain: bool = True) -> None:
        self.breaker.failed("refused", time.monotonic(), refused=refused, certain=certain)

    async def probe(self) -> bool:
        self.probes.append(time.monotonic())
        if self.hangs is not None:
            await self.hangs()
        if not self.is_up:
            self.fail()
        return self.is_up

    async def call(self) -> str:
        if self.breaker.is_open:
            await self.breaker.wait(self.probe)
        return "done"


@pytest.fixture
def redis_away() -> FakeRedis:
    redis = FakeRedis()
    redis.fail()
    return redis


async def test_it_is_closed_until_something_fails() -> None:
    redis = FakeRedis()
    assert repr(redis.breaker) == "<CircuitBreaker redis:6379/0 closed>"
    redis.fail()
    assert redis.breaker.is_open
    assert repr(redis.breaker) == "<CircuitBreaker redis:6379/0 open>"


async def test_callers_share_the_failure_of_a_few_probes(redis_away: FakeRedis) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(*(redis_away.call() for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {BrokerUnavailableError}
    assert len({id(answer) for answer in answers}) == 50
    assert 0.2 <= time.monotonic() - began < 1.0
    assert 1 <= len(redis_away.probes) <= 5


async def test_the_failure_names_the_place_the_reason_and_how_long(redis_away: FakeRedis) -> None:
    told = r"^Redis at redis:6379/0 has been away for 0\.\d s, since \d\d:\d\d:\d\d UTC \(refused\)"
    with pytest.raises(BrokerUnavailableError, match=told):
        await redis_away.call()


async def test_probes_keep_their_distance_whoever_makes_them(redis_away: FakeRedis) -> None:
    for _ in range(4):
        await asyncio.gather(*(redis_away.call() for _ in range(5)), return_exceptions=True)
    gaps = [b - a for a, b in zip(redis_away.probes, redis_away.probes[1:], strict=False)]
    assert len(gaps) >= 5
    assert min(gaps) >= 0.1


async def test_callers_survive_an_absence_shorter_than_their_patience(
    redis_away: FakeRedis,
) -> None:
    calls = [asyncio.create_task(redis_away.call()) for _ in range(20)]
    await eventually(lambda: redis_away.probes)
    redis_away.is_up = True
    assert await asyncio.gather(*calls) == ["done"] * 20
    assert not redis_away.breaker.is_open


async def test_a_prober_that_is_cancelled_leaves_the_probe_to_the_next(
    redis_away: FakeRedis,
) -> None:
    redis_away.hangs = asyncio.Event().wait
    prober = asyncio.create_task(redis_away.call())
    await eventually(lambda: redis_away.probes)
    waiting = asyncio.create_task(redis_away.call())
    await asyncio.sleep(0.01)
    redis_away.hangs, redis_away.is_up = None, True
    prober.cancel()
    assert await waiting == "done"
    assert len(redis_away.probes) == 2


async def test_nobody_waits_long_for_a_probe_that_gets_no_answer(redis_away: FakeRedis) -> None:
    redis_away.hangs = asyncio.Event().wait
    prober = asyncio.create_task(redis_away.call())
    await eventually(lambda: redis_away.probes)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        await redis_away.call()
    assert 0.3 <= time.monotonic() - began < 1.0
    prober.cancel()


async def test_a_probe_that_hangs_is_given_up_for_dead(redis_away: FakeRedis) -> None:
    redis_away.hangs = asyncio.Event().wait
    prober = asyncio.create_task(redis_away.call())
    await eventually(lambda: redis_away.probes)
    await eventually(lambda: not redis_away.breaker._is_probed(time.monotonic()))
    redis_away.hangs, redis_away.is_up = None, True
    assert await redis_away.call() == "done"
    prober.cancel()


async def test_an_error_that_is_no_absence_is_raised_and_leaves_the_others_alone(
    redis_away: FakeRedis,
) -> None:
    async def breaks() -> bool:
        raise ValueError("another loop")

    with pytest.raises(ValueError, match="another loop"):
        await redis_away.breaker.wait(breaks)
    redis_away.is_up = True
    assert await redis_away.call() == "done"


async def test_one_broken_connection_is_asked_about_at_once() -> None:
    redis = FakeRedis()
    redis.is_up = True
    redis.fail(certain=False)
    began = time.monotonic()
    assert await redis.call() == "done"
    assert redis.probes[0] - began < 0.08


async def test_an_answer_to_a_call_under_way_closes_it() -> None:
    redis = FakeRedis()
    redis.fail(certain=False)
    redis.breaker.answered()
    assert not redis.breaker.is_open


async def test_a_refusal_stands_until_a_probe_says_otherwise() -> None:
    redis = FakeRedis()
    redis.fail(refused=True)
    redis.breaker.answered()
    assert redis.breaker.is_open
    redis.is_up = True
    assert await redis.call() == "done"


async def test_a_failure_older_than_the_latest_answer_is_no_news() -> None:
    redis = FakeRedis()
    began_at = time.monotonic()
    redis.breaker.answered_at = time.monotonic()
    redis.breaker.failed("timed out", began_at, refused=False, certain=True)
    assert not redis.breaker.is_open


async def test_event_loops_of_other_threads_wait_for_the_same_probe(redis_away: FakeRedis) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(redis_away.call())))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    await eventually(lambda: redis_away.probes)
    redis_away.is_up = True
    answers.append(await redis_away.call())
    await eventually(lambda: answers == ["done"] * 4, within=2)
    for thread in threads:
        thread.join()


async def test_a_loop_that_was_closed_while_it_waited_harms_nobody(redis_away: FakeRedis) -> None:
    def wait_and_close() -> None:
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(redis_away.call())
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()

    thread = threading.Thread(target=wait_and_close)
    thread.start()
    thread.join()
    redis_away.is_up = True
    assert await redis_away.call() == "done"
    gc.collect()


def test_those_who_use_the_same_redis_share_one_as_long_as_they_live() -> None:
    one = breaker_of("redis-of-this-test:1/0")
    assert breaker_of("redis-of-this-test:1/0") is one
    assert breaker_of("redis-of-this-test:2/0") is not one
    one.failed("refused", time.monotonic(), refused=False, certain=True)
    del one
    gc.collect()
    assert not breaker_of("redis-of-this-test:1/0").is_open


async def test_a_refusal_is_news_also_when_other_calls_are_answered_meanwhile() -> None:
    redis = FakeRedis()
    began_at = time.monotonic()
    redis.breaker.answered_at = time.monotonic()
    redis.breaker.failed("READONLY", began_at, refused=True, certain=True)
    assert redis.breaker.is_open


async def test_a_redis_that_has_moved_is_looked_for_at_once() -> None:
    redis = FakeRedis()
    redis.is_up = True
    redis.breaker.moved("another master")
    assert (redis.breaker.is_open, redis.breaker.outages) == (True, 1)
    began = time.monotonic()
    assert await redis.call() == "done"
    assert time.monotonic() - began < 0.1
    assert len(redis.probes) == 1


async def test_that_it_has_moved_is_news_once(redis_away: FakeRedis) -> None:
    redis_away.breaker.moved("another master")
    assert redis_away.breaker.outages == 2
    redis_away.is_up = True
    await redis_away.call()
    redis_away.breaker.moved("another master")
    assert not redis_away.breaker.is_open
    redis_away.breaker.moved("a third one")
    assert (redis_away.breaker.is_open, redis_away.breaker.outages) == (True, 3)


async def test_after_a_move_in_the_midst_of_an_outage_the_next_probe_is_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit_breaker, "_SPACING", (60.0, 60.0))
    monkeypatch.setattr(circuit_breaker, "_LONGEST_WAIT", 60.0)
    redis = FakeRedis()
    redis.fail()
    waiting = asyncio.create_task(redis.call())
    await eventually(lambda: redis.breaker._listeners)
    redis.is_up = True
    redis.breaker.moved("another master")
    async with asyncio.timeout(5):
        assert await waiting == "done"
    assert len(redis.probes) == 1
