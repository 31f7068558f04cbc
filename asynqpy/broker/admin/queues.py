"""Calls that tell of a queue as a whole, pause it, or remove it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from asynqpy.broker import keys
from asynqpy.broker.exchange import Word
from asynqpy.broker.scripts import Call, command, script_call

#: Groups whose members one script counts, some 0.5 µs each.
MOST_GROUPS = 1_000

#: Tasks of each state, and groups, of which the memory is measured; Go's numbers, so that estimates agree.
_SAMPLE, _SAMPLED_GROUPS = 20, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """A queue at ``timestamp``.

    ``latency`` is how long the next pending task has been waiting. ``processed`` and ``failed`` count attempts of
    today (UTC), the former includes the latter; the totals are since the queue was first used. ``memory_usage`` is an
    estimate in bytes from a sample, ``None`` where it was not asked for. Tasks that an aggregator is working on are in
    no count.
    """

    queue: str
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    aggregating: int
    groups: int
    processed: int
    failed: int
    processed_total: int
    failed_total: int
    is_paused: bool
    latency: timedelta
    memory_usage: int | None
    timestamp: datetime

    @property
    def size(self) -> int:
        """All tasks of the queue, in whatever state."""
        live = self.pending + self.active + self.scheduled + self.retry
        return live + self.archived + self.completed + self.aggregating


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyStats:
    """What a queue did on a day (UTC). ``processed`` counts attempts that ended, those that ``failed`` included."""

    queue: str
    date: date
    processed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group of a queue, and how many tasks wait in it."""

    group: str
    size: int


@dataclass(frozen=True, slots=True)
class Counted:
    """The answer of ``queue_info.lua``; ``aggregating`` is ``None`` where there are too many groups for one script."""

    sizes: Sequence[int]
    aggregating: int | None
    groups: int
    counters: Sequence[int]
    is_paused: bool
    pending_since_ns: int | None


def queue_info_call(queue: str, now: datetime) -> Call[Counted]:
    """Count what the queue holds, and has done on the day of ``now``."""
    day = now.astimezone(UTC).date().isoformat()
    script_keys = [
        *_containers(queue),
        keys.processed(queue),
        keys.failed(queue),
        keys.processed_on(queue, day),
        keys.failed_on(queue, day),
        keys.paused(queue),
    ]
    args: list[Word] = [keys.task_prefix(queue), keys.group_prefix(queue), MOST_GROUPS]
    return script_call("admin/queue_info", script_keys, args, _counted)


def _counted(answer: list[int | bytes]) -> Counted:
    numbers = [int(it) for it in answer[:8]]
    since = answer[13]
    return Counted(
        sizes=numbers[:6],
        aggregating=None if numbers[6] < 0 else numbers[6],
        groups=numbers[7],
        counters=[_count(it) for it in answer[8:12]],
        is_paused=bool(answer[12]),
        pending_since_ns=_count(since) or None,
    )


def memory_usage_call(queue: str) -> Call[int]:
    """Estimate the bytes that the queue takes."""
    args: list[Word] = [keys.task_prefix(queue), keys.group_prefix(queue)]
    args += [_SAMPLE, _SAMPLED_GROUPS, MOST_GROUPS]
    return script_call("admin/memory_usage", _containers(queue), args, int)


def _containers(queue: str) -> list[str]:
    lists = [keys.pending(queue), keys.active(queue), keys.scheduled(queue), keys.retry(queue)]
    return [*lists, keys.archived(queue), keys.completed(queue), keys.groups(queue)]


def history_call(queue: str, days: Sequence[date]) -> Call[list[DailyStats]]:
    """What the queue did on those days."""
    names = [
        of(queue, day.isoformat()) for day in days for of in (keys.processed_on, keys.failed_on)
    ]

    def read(answer: list[bytes | None]) -> list[DailyStats]:
        counts = [_count(it) for it in answer]
        return [
            DailyStats(queue=queue, date=day, processed=processed, failed=failed)
            for day, processed, failed in zip(days, counts[::2], counts[1::2], strict=True)
        ]

    return command("MGET", *names, read=read)


def last_days(today: date, count: int) -> Iterator[date]:
    """``today`` first."""
    for n in range(count):
        yield today - timedelta(days=n)


def _count(text: bytes | int | None) -> int:
    """A counter as Redis has it; 0 for what is none."""
    try:
        return int(text or 0)
    except ValueError:
        return 0


def pause_call(queue: str, now: float) -> Call[bool]:
    """Answers whether it was not paused before."""
    return command("SET", keys.paused(queue), int(now), "NX", read=bool)


def unpause_call(queue: str) -> Call[bool]:
    """Answers whether it was paused."""
    return command("DEL", keys.paused(queue), read=bool)


def is_registered_call(queue: str) -> Call[bool]:
    return command("SISMEMBER", keys.QUEUES, queue, read=bool)


def remove_queue_call(queue: str) -> Call[bool]:
    """Remove a queue that is empty; answers whether it was."""
    containers = [keys.pending, keys.active, keys.lease, keys.scheduled, keys.retry, keys.archived]
    others = [keys.completed, keys.groups, keys.aggregation_sets]
    rest = [keys.paused, keys.processed, keys.failed, keys.reconciler]
    script_keys = [key(queue) for key in (*containers, *others, *rest)]
    return script_call("admin/remove_queue", script_keys, [], bool)
