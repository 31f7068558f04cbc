"""When a failed task is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from asynqpy.task import ActiveTask

#: ``(retried, error, task) -> delay``: how long to wait (seconds or timedelta) after the failure ``error`` of a task
#: that had failed ``retried`` times before.
RetryDelay: TypeAlias = Callable[[int, BaseException, "ActiveTask"], float | timedelta]


def default_retry_delay(retried: int, error: BaseException, task: ActiveTask) -> float:
    """asynq's formula: n⁴ + 15 s plus a jitter of 0-29 s × (n + 1), n being the failures so far.

    The first retry comes after 15-44 s, the tenth after about two hours, the 25th and last after about four days.
    """
    return retried**4 + 15 + random.randint(0, 29) * (retried + 1)
