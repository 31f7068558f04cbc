from __future__ import annotations

import asyncio

import pytest

from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server.healthchecker import HealthCheck, HealthChecker
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker


def a_checker(
    broker: FlakyBroker, health_check: HealthCheck, interval: float = 15.0
) -> HealthChecker:
    return HealthChecker(broker=broker, health_check=health_check, interval=interval)


class Endless:
    """A health check that never returns."""

    def __init__(self) -> None:
        self.begun = 0

    async def __call__(self, error: BrokerError | None) -> None:
        self.begun += 1
        await asyncio.Event().wait()


async def test_callback_is_told_none_while_redis_answers(broker: FlakyBroker) -> None:
    told: list[BrokerError | None] = []
    await a_checker(broker, told.append).tick()
    assert told == [None]


async def test_callback_is_told_the_error_while_redis_does_not(broker: FlakyBroker) -> None:
    told: list[BrokerError | None] = []
    broker.down()
    await a_checker(broker, told.append).tick()
    assert [type(error) for error in told] == [BrokerUnavailableError]


async def test_async_callback_is_awaited(broker: FlakyBroker) -> None:
    told = []

    async def health_check(error: BrokerError | None) -> None:
        await broker.ping()
        told.append(error)

    await a_checker(broker, health_check).tick()
    assert told == [None]


@pytest.mark.parametrize("is_down", [False, True])
async def test_failing_callback_is_logged_and_no_more(
    broker: FlakyBroker, is_down: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(error: BrokerError | None) -> None:
        raise LookupError("a fault of its own")

    if is_down:
        broker.down()
    await a_checker(broker, fails).tick()
    assert "the health check callback failed" in caplog.text


async def test_callback_that_cancels_itself_does_not_end_the_checks(
    broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async def gives_up(error: BrokerError | None) -> None:
        raise asyncio.CancelledError

    await a_checker(broker, gives_up).tick()
    assert "the health check callback failed" in caplog.text


async def test_callback_that_takes_longer_than_the_interval_is_cut_off(
    broker: FlakyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await a_checker(broker, Endless(), interval=0.01).tick()
    assert "the health check callback took longer than 0.01 s" in caplog.text


async def test_callback_that_never_returns_does_not_hold_up_the_shutdown(
    broker: FlakyBroker,
) -> None:
    endless = Endless()
    checker = a_checker(broker, endless)
    checker.start()
    await eventually(lambda: endless.begun == 1)
    await asyncio.wait_for(checker.stop(), 5)


async def test_first_check_comes_at_once(broker: FlakyBroker) -> None:
    told: list[BrokerError | None] = []
    checker = a_checker(broker, told.append)
    checker.start()
    await eventually(lambda: told == [None])
    await checker.stop()
