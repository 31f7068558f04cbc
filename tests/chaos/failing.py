"""Calls on Redis that fail at random, before or after they were executed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError


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
    rate: float, dice: random.Random, hits: Callable[[Pipeline], bool] = lambda _: True
) -> Iterator[Failures]:
    """Let this share of the round trips of this process fail as a broken connection does; counts them.

    ``hits`` may spare some. Below asynqpy, at redis-py's pipeline: every call of a broker is one, and what asynqpy
    makes of the error is part of what is tried.
    """
    honest, failures = Pipeline.execute, Failures()

    async def execute(pipeline: Pipeline, raise_on_error: bool = True) -> list[Any]:
        if not hits(pipeline):
            return await honest(pipeline, raise_on_error)
        failures.calls += 1
        if dice.random() >= rate:
            return await honest(pipeline, raise_on_error)
        if dice.random() < 0.5:
            failures.unsent += 1
        else:
            await honest(pipeline, raise_on_error)
            failures.unanswered += 1
        raise RedisConnectionError("the connection was broken on purpose")

    with mock.patch.object(Pipeline, "execute", execute):
        yield failures
