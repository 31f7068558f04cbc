from __future__ import annotations

import pytest

from asynqpy.retry import default_retry_delay
from tests.server.making import a_task

TASK = a_task()


def delays(retried: int) -> set[float]:
    return {default_retry_delay(retried, ValueError(), TASK) for _ in range(1_000)}


@pytest.mark.parametrize("retried", [0, 1, 2, 9, 24])
def test_delay_is_within_the_bounds_of_asynq(retried: int) -> None:
    least = retried**4 + 15
    assert all(least <= delay <= least + 29 * (retried + 1) for delay in delays(retried))


@pytest.mark.parametrize("retried", [0, 3])
def test_delay_takes_each_of_thirty_steps(retried: int) -> None:
    least = retried**4 + 15
    assert delays(retried) == {least + step * (retried + 1) for step in range(30)}


def test_delay_grows_from_seconds_to_days() -> None:
    assert max(delays(0)) < 45
    assert 331_000 < min(delays(24)) < max(delays(24)) < 334_000
