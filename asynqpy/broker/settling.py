"""From outcomes to calls of ``done.lua``, ``complete.lua``, ``retry.lua``, ``archive.lua`` and ``requeue.lua``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH, Batch, by_key
from asynqpy.broker.exchange import Word
from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import Archive, Complete, Done, Requeue, Retry, Settlement
from asynqpy.broker.scripts import Call, script_call
from asynqpy.clock import Clock

_DAY = 86_400

#: Seconds that daily counters live, and that archived tasks are kept (asynq's constants).
STATISTICS_TTL = ARCHIVE_TTL = 90 * _DAY

#: Most archived tasks of a queue. Go's own trim fails for good when it finds some 8,000 above this, so never exceed it.
ARCHIVE_LIMIT = 10_000

_Build: TypeAlias = Callable[[str, Sequence[Settlement], Clock], Call[list[bool]]]


def settle_batches(settlements: Sequence[Settlement], clock: Clock) -> Iterator[Batch[bool]]:
    """Calls that answer per task: True settled, False lost to another holder."""
    for (queue, kind), places in by_key(settlements, _queue_and_kind):
        yield Batch(_BUILDERS[kind](queue, [settlements[p] for p in places], clock), places)


def _queue_and_kind(settlement: Settlement) -> tuple[str, type]:
    return settlement.message.queue, type(settlement.outcome)


def _answers(codes: list[int]) -> list[bool]:
    return [code == 1 for code in codes]


def _lock(message: TaskMessage) -> str:
    """The unique lock to release; text that names no lock of this queue is left alone."""
    key = message.unique_key
    return key if key.startswith(keys.unique_prefix(message.queue)) else ""


def _held(queue: str) -> list[str]:
    return [keys.active(queue), keys.lease(queue)]


def _processed(queue: str, clock: Clock) -> list[str]:
    return [keys.processed_on(queue, clock.today()), keys.processed(queue)]


def _processed_and_failed(queue: str, clock: Clock) -> list[str]:
    return [
        *_processed(queue, clock),
        keys.failed_on(queue, clock.today()),
        keys.failed(queue),
    ]


def _day_expires(clock: Clock) -> int:
    return int(clock.now()) + STATISTICS_TTL


def _done(queue: str, settlements: Sequence[Settlement], clock: Clock) -> Call[list[bool]]:
    args: list[Word] = [keys.task_prefix(queue), _day_expires(clock)]
    for s in settlements:
        args += (s.message.id, s.fence, _lock(s.message))
    return script_call("done", [*_held(queue), *_processed(queue, clock)], args, _answers)


def _complete(queue: str, settlements: Sequence[Settlement], clock: Clock) -> Call[list[bool]]:
    args: list[Word] = [keys.task_prefix(queue), _day_expires(clock)]
    for s in settlements:
        message = s.message.completed(s.ended_at)
        expires = message.completed_at + message.retention
        args += (message.id, s.fence, _lock(message), message.encode(), expires)
    script_keys = [*_held(queue), keys.completed(queue), *_processed(queue, clock)]
    return script_call("complete", script_keys, args, _answers)


def _retry(queue: str, settlements: Sequence[Settlement], clock: Clock) -> Call[list[bool]]:
    args: list[Word] = [keys.task_prefix(queue), _day_expires(clock)]
    for s in settlements:
        assert isinstance(s.outcome, Retry)
        message = s.message.failed(s.outcome.error, s.ended_at, counted=s.outcome.counted).encode()
        args += (s.message.id, s.fence, message, int(s.outcome.at), int(s.outcome.counted))
        args.append(_crashes(s.outcome))
    script_keys = [*_held(queue), keys.retry(queue), *_processed_and_failed(queue, clock)]
    return script_call("retry", script_keys, args, _answers)


def _archive(queue: str, settlements: Sequence[Settlement], clock: Clock) -> Call[list[bool]]:
    now = int(clock.now())
    args: list[Word] = [keys.task_prefix(queue), _day_expires(clock)]
    args += (now, now - ARCHIVE_TTL, ARCHIVE_LIMIT, MAX_BATCH)
    for s in settlements:
        assert isinstance(s.outcome, Archive)
        message = s.message.failed(s.outcome.error, s.ended_at, counted=False).encode()
        args += (s.message.id, s.fence, message)
    script_keys = [*_held(queue), keys.archived(queue), *_processed_and_failed(queue, clock)]
    return script_call("archive", script_keys, args, _answers)


def _crashes(outcome: Retry | Requeue) -> Word:
    return "" if outcome.crashes is None else outcome.crashes


def _requeue(queue: str, settlements: Sequence[Settlement], clock: Clock) -> Call[list[bool]]:
    args: list[Word] = [keys.task_prefix(queue), clock.now_ns()]
    for s in settlements:
        assert isinstance(s.outcome, Requeue)
        args += (s.message.id, s.fence, _crashes(s.outcome))
    return script_call("requeue", [*_held(queue), keys.pending(queue)], args, _answers)


_BUILDERS: dict[type, _Build] = {
    Done: _done,
    Complete: _complete,
    Retry: _retry,
    Archive: _archive,
    Requeue: _requeue,
}
