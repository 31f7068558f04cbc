"""What becomes of a task once its handler has ended: decided on values, without Redis and without a loop."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry
from asynqpy.errors import AsynqError, PayloadError, RevokeTask, SkipRetry
from asynqpy.retry import RetryDelay, default_retry_delay
from asynqpy.server.suspects import POISON_AFTER
from asynqpy.task import ActiveTask

logger = logging.getLogger("asynqpy.server")

#: Seconds an attempt may run when the message sets neither timeout nor deadline (a client's fault).
_FALLBACK_TIMEOUT = 30 * 60

#: Longest delay that a ``retry_delay`` may ask for, s: a hundred years still fit the wire.
_LONGEST_DELAY = 100 * 366 * 86_400.0

#: Longest delay (s) of a task that was there when two workers died; doubled for each one after that, up to the second.
_PART_COMPANY, _PART_FOR_LONG = 30.0, 120.0

#: Workers that may die with a task although others ran beside it each time.
_ENOUGH = 8


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """The user's say about failures; a function of theirs that fails itself is logged, and asynq's rule applies."""

    retry_delay: RetryDelay = default_retry_delay
    is_failure: Callable[[BaseException], bool] = lambda error: True

    def delay(self, retried: int, error: BaseException, task: ActiveTask) -> float:
        """Seconds until the next attempt."""
        try:
            delay = self.retry_delay(retried, error, task)
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
            if math.isnan(seconds):
                raise ValueError("retry_delay answered NaN")
        except Exception:
            logger.exception("retry_delay failed for %r; the default delay applies", task)
            seconds = default_retry_delay(retried, error, task)
        return min(max(seconds, 0.0), _LONGEST_DELAY)

    def counts(self, error: BaseException) -> bool:
        """Whether the failure uses up a retry."""
        try:
            return bool(self.is_failure(error))
        except Exception:
            logger.exception("is_failure failed for %r; it counts as a failure", error)
            return True


def effective_deadline(message: TaskMessage, now: float) -> float:
    """When an attempt that starts now is cut off, unix s."""
    if message.timeout and message.deadline:
        return min(now + message.timeout, message.deadline)
    if message.timeout:
        return now + message.timeout
    return message.deadline or now + _FALLBACK_TIMEOUT


#: Made once: nearly every task ends so.
_DONE, _COMPLETE = Done(), Complete()


def after_success(message: TaskMessage) -> Outcome:
    return _COMPLETE if message.retention > 0 else _DONE


def after_failure(
    message: TaskMessage,
    error: BaseException,
    task: ActiveTask,
    policy: FailurePolicy,
    now: float,
) -> Outcome:
    """Drop, archive or retry. ``now`` is unix s."""
    if _means(error, RevokeTask):
        return Done()
    if _means(error, *_HOPELESS) or message.retried >= message.max_retry:
        return Archive(error_text(error))
    at = now + policy.delay(message.retried, error, task)
    if message.deadline and int(at) >= message.deadline:
        # No attempt could succeed any more; asynq burns all that are left.
        return Archive(error_text(error))
    return Retry(at, error_text(error), counted=policy.counts(error))


def after_crash(crashes: int, error: BaseException, now: float, *, is_alone: bool) -> Outcome:
    """What becomes of a task whose worker died, as ``crashes`` before it have. ``now`` is unix s.

    It is no failure of the task's: nothing is counted, and it is the next to run. When a second worker dies with it, it
    comes back some time later, by itself: others that ran beside it both times may be the cause. The third time it is
    archived if it ``is_alone`` in having been there each time; else they part company once more.
    """
    crashes += 1
    if crashes >= (POISON_AFTER if is_alone else _ENOUGH):
        return Archive(
            f"poison pill: {crashes} workers died while they ran it; {error_text(error)}"
        )
    if crashes == 1:
        return Requeue(crashes=crashes)
    longest = min(_PART_COMPANY * 2 ** (crashes - 2), _PART_FOR_LONG)
    at = now + random.uniform(1.0, longest)
    return Retry(at, error_text(error), counted=False, crashes=crashes)


def decides(error: BaseException) -> bool:
    """Whether the error itself says what becomes of the task, whatever else happens to it."""
    return _means(error, RevokeTask, *_HOPELESS)


def error_text(error: BaseException) -> str:
    """The text that the CLI and asynqmon show for a failure."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # an error that cannot tell itself is still a failure
        return name
    if isinstance(error, AsynqError) and text:
        return text
    return f"{name}: {text}" if text else name


#: Errors that no retry will mend.
_HOPELESS = (SkipRetry, PayloadError)


def _means(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(link, kinds) for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised ``from``, and its members if it is a group: who wraps SkipRetry still means it."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        links.append(link.__cause__)
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
