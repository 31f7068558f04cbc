"""Calls on Redis that fail at random, before or after they were executed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker.exchange import Command, DirectExchange, Told


@dataclass(slots=True)
class Failures:
    calls: int = 0
    unsent: int = 0
    unanswered: int = 0

    @property
    def all(self) -> int:
        return self.unsent + self.unanswered


@contextmanager
def failing_calls(
    rate: float, dice: random.Random, hits: Callable[[DirectExchange], bool] = lambda _: True
) -> Iterator[Failures]:
    """Let this share of the round trips of this process fail as a broken connection does; counts them.

    ``hits`` may spare some. Below all that asynqpy decides: every call of a broker is an exchange, and what becomes of
    the error is part of what is tried.
    """
    honest, failures = DirectExchange.send, Failures()

    async def send(
        exchange: DirectExchange, commands: Sequence[Command], told: Told | None = None
    ) -> list[Any]:
        if not hits(exchange):
            return await honest(exchange, commands, told)
        failures.calls += 1
        if dice.random() >= rate:
            return await honest(exchange, commands, told)
        if dice.random() < 0.5:
            failures.unsent += 1
        else:
            await honest(exchange, commands)
            failures.unanswered += 1
        raise RedisConnectionError("the connection was broken on purpose")

    with mock.patch.object(DirectExchange, "send", send):
        yield failures
