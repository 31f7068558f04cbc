from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker


@pytest.fixture
async def broker(redis_url: str, clock: FakeClock) -> AsyncIterator[FlakyBroker]:
    """A broker on an empty Redis, under a fake clock."""
    broker = FlakyBroker(redis_url, clock)
    yield broker
    await broker.close()


@pytest.fixture(autouse=True)
def loop_that_keeps_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's debug mode complains of slow callbacks on a busy machine; tests read our own log."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "level", logging.ERROR)
