"""A pytest plugin: the calls of every ``Server`` on Redis fail at random, those of the test itself do not.

    python -m pytest -p tests.chaos.failing_servers --redis-errors 0.005 tests/acceptance tests/server

For tests of whole servers, which say what becomes of the tasks. One that counts calls, reads the log or has Redis fail
by itself may object, and is right to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from unittest import mock
from weakref import WeakSet

import pytest

from asynqpy.broker.broker import Broker
from asynqpy.broker.exchange import Exchange
from tests.chaos.failing import failing_calls


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redis-errors", type=float, default=0.0, metavar="SHARE")
    parser.addoption("--redis-errors-seed", type=int, default=1, metavar="N")


class _ServersBroker(Broker):
    """Remembers the connections of servers."""

    exchanges: WeakSet[Exchange]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._remember(self)

    def sibling(self, *, timeout: float | None = None) -> Broker:
        broker = super().sibling(timeout=timeout)
        self._remember(broker)
        return broker

    def _remember(self, broker: Broker) -> None:
        self.exchanges.add(broker._connection.exchange)


@pytest.fixture(autouse=True)
def failing_servers(request: pytest.FixtureRequest) -> Iterator[None]:
    exchanges: WeakSet[Exchange] = WeakSet()
    broker = type("ServersBroker", (_ServersBroker,), {"exchanges": exchanges})
    dice = random.Random(f"{request.config.getoption('--redis-errors-seed')} {request.node.nodeid}")
    rate = request.config.getoption("--redis-errors")
    with (
        mock.patch("asynqpy.server.server.Broker", broker),
        failing_calls(rate, dice, lambda exchange: exchange in exchanges),
    ):
        yield
