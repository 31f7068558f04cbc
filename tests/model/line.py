"""A broker whose connection fails on demand, at a chosen round trip and in each of the ways there are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.exchange import Told
from asynqpy.broker.scripts import Call, Runner
from asynqpy.clock import Clock
from asynqpy.errors import BrokerUnavailableError


class Fate(Enum):
    """What becomes of a round trip. Only an answered one is a success to whoever made it."""

    ANSWERED = auto()
    ANSWER_LOST = auto()
    UNSENT = auto()
    #: What was sent reaches Redis some time after its sender has given up.
    LATE = auto()


class FatefulBroker(Broker):
    """Makes real calls to a real Redis; ``line`` decides about their fate."""

    def __init__(self, redis: Redis, clock: Clock, owner: str = "") -> None:
        super().__init__(redis, clock, owner=owner)
        self.line = self._runner = self._producer._runner = Line(self._connection)


class Line(Runner):
    """The first ``answered_before`` round trips after ``meet`` are answered; the rest meet the fate."""

    _fate = Fate.ANSWERED
    _answered_before = 0
    _under_way: Sequence[Call[Any]] = ()

    def meet(self, fate: Fate, answered_before: int = 0) -> None:
        self._fate, self._answered_before = fate, answered_before

    def take_late(self) -> Sequence[Call[Any]]:
        """What has not arrived yet; ``arrive`` brings it."""
        calls, self._under_way = self._under_way, ()
        return calls

    async def arrive(self, calls: Sequence[Call[Any]]) -> None:
        await super().run_all(calls)

    async def run_all(
        self, calls: Sequence[Call[Any]], told: Told | None = None, *, patience: float = 0.0
    ) -> list[Any]:
        fate = self._fate if self._answered_before <= 0 else Fate.ANSWERED
        self._answered_before -= 1
        if fate is Fate.LATE:
            self._under_way = calls
        if fate in (Fate.UNSENT, Fate.LATE):
            raise BrokerUnavailableError("not sent, or not yet")
        answers = await super().run_all(
            calls, None if fate is Fate.ANSWER_LOST else told, patience=patience
        )
        if fate is Fate.ANSWER_LOST:
            raise BrokerUnavailableError("the answer was lost")
        return answers
