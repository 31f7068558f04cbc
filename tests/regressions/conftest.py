from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from asynqpy import Client
from asynqpy.broker.broker import Broker
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.interop.go_build import build
from tests.interop.go_program import GoProgram
from tests.requires import need_go

#: The asynq whose faults docs/reliability.md lists; older ones have some of them.
GO_VERSION = "0.26"


@pytest.fixture
def go(redis_url: str) -> GoProgram:
    """The Go program; the test is skipped where there is no Go."""
    need_go()
    return GoProgram(GO_VERSION, build(GO_VERSION), redis_url)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def broker(redis_url: str, clock: FakeClock) -> AsyncIterator[FlakyBroker]:
    """A broker on an empty Redis, under a fake clock."""
    broker = FlakyBroker(redis_url, clock)
    yield broker
    await broker.close()


@pytest.fixture
async def other_broker(redis_url: str, clock: FakeClock) -> AsyncIterator[Broker]:
    """That of another process on the same Redis."""
    broker = Broker(redis_url, clock)
    yield broker
    await broker.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def loop_that_keeps_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's debug mode complains of slow callbacks on a busy machine; tests read our own log."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "level", logging.ERROR)
