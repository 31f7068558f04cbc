from __future__ import annotations

import random

import pytest

from asynqpy import Client, Task
from asynqpy.errors import BrokerUnavailableError
from tests.chaos.failing import failing_calls


async def test_round_trips_fail_before_and_after_they_were_executed(redis_url: str) -> None:
    async with Client(redis_url) as client:
        with failing_calls(0.3, random.Random(1)) as failures:
            errors = [error for n in range(15) if (error := await enqueued(client, n))]
        # The broker asks whether Redis is back, and that may fail as well.
        assert 0 < len(errors) <= failures.all
        assert 0 < failures.unsent < failures.all < failures.calls
        assert await enqueued(client, 50) is None


async def test_a_rate_of_one_lets_nothing_through(redis_url: str) -> None:
    async with Client(redis_url) as client:
        with failing_calls(1.0, random.Random(1)), pytest.raises(BrokerUnavailableError):
            await client.enqueue(Task("sleep"))


async def enqueued(client: Client, number: int) -> Exception | None:
    try:
        await client.enqueue(Task("sleep", b"{}"), task_id=f"t{number}")
    except BrokerUnavailableError as error:
        return error
    return None
