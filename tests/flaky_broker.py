"""A broker on a real Redis whose connection fails on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.exchange import Told
from asynqpy.broker.scripts import Call, Runner
from asynqpy.clock import Clock
from asynqpy.errors import BrokerUnavailableError


class FlakyBroker(Broker):
    """While ``down`` every call fails unsent; with ``lose_answers`` it is sent, and fails all the same."""

    def __init__(self, redis: RedisSource, clock: Clock | None = None, *, owner: str = "") -> None:
        super().__init__(redis, clock, owner=owner)
        self._flaky = self._runner = self._producer._runner = _FlakyRunner(self._connection)

    @property
    def calls(self) -> int:
        """Round trips tried so far."""
        return self._flaky.calls

    def down(self) -> None:
        self._flaky.is_down = True

    def lose_answers(self) -> None:
        self._flaky.loses_answers = True

    def up(self) -> None:
        self._flaky.is_down = self._flaky.loses_answers = False


class _FlakyRunner(Runner):
    is_down = False
    loses_answers = False
    calls = 0

    async def run_all(
        self, calls: Sequence[Call[Any]], told: Told | None = None, *, patience: float = 0.0
    ) -> list[Any]:
        self.calls += 1
        if self.is_down:
            raise BrokerUnavailableError("down")
        answers = await super().run_all(
            calls, None if self.loses_answers else told, patience=patience
        )
        if self.loses_answers:
            raise BrokerUnavailableError("the answer was lost")
        return answers
