"""Calls of the scripts that keep a queue in order: forwarding, expiry of results, setting aside what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.consuming import Unreadable, text
from asynqpy.broker.exchange import Word
from asynqpy.broker.scripts import Call, script_call
from asynqpy.clock import Clock


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What one pass over a sorted set of delayed tasks did.

    ``next_due`` (unix s) is when the next task there is due, or ``None`` when there is none.
    """

    queue: str
    source: str
    moved: int
    next_due: float | None
    unreadable: Sequence[Unreadable]


def forward_call(queue: str, source: str, clock: Clock) -> Call[Forwarded]:
    """Move up to ``MAX_BATCH`` due tasks out of ``source``, the key of ``scheduled`` or ``retry``."""
    args: list[Word] = [
        keys.task_prefix(queue),
        keys.group_prefix(queue),
        int(clock.certainly()),
        clock.now_ns(),
        MAX_BATCH,
    ]

    def read(answer: tuple[int, bytes, list[bytes]]) -> Forwarded:
        moved, next_due, bad = answer
        unreadable = [
            Unreadable(raw_id, raw_score.decode(), "there is an id, but no message")
            for raw_id, raw_score in zip(bad[::2], bad[1::2], strict=True)
        ]
        return Forwarded(queue, source, moved, float(next_due) if next_due else None, unreadable)

    return script_call("forward", [source, keys.pending(queue), keys.groups(queue)], args, read)


def delete_expired_completed_call(queue: str, now: float, limit: int) -> Call[int]:
    """Delete up to ``limit`` completed tasks whose retention ended."""
    args: list[Word] = [keys.task_prefix(queue), int(now), limit]
    return script_call("delete_expired_completed", [keys.completed(queue)], args, int)


def quarantine_call(
    queue: str, listed_in: str, unreadable: Sequence[Unreadable], now: float
) -> Call[list[bytes]]:
    """Set records of ``listed_in`` aside, the key of ``lease``, ``scheduled`` or ``retry``; answers their ids."""
    args: list[Word] = [keys.task_prefix(queue), keys.quarantine_prefix(queue), int(now)]
    for record in unreadable:
        args += (record.id, record.fence)
    script_keys = [listed_in, keys.active(queue), keys.quarantine(queue)]
    return script_call("quarantine", script_keys, args, list)


def container_types(queue: str) -> dict[bytes, str]:
    """The keys that a queue has one of, and their types."""
    sorted_sets = [keys.lease, keys.scheduled, keys.retry, keys.archived, keys.completed]
    types = {keys.pending(queue): "list", keys.active(queue): "list", keys.groups(queue): "set"}
    types |= {key(queue): "zset" for key in (*sorted_sets, keys.aggregation_sets)}
    return {key.encode(): kind for key, kind in types.items()}


def set_aside_wrong_types_call(queue: str, expected: Mapping[bytes, str]) -> Call[list[str]]:
    """Rename those of the keys that do not hold the type that is expected; answer their new names."""
    args: list[Word] = [keys.quarantine_prefix(queue)]
    for key, kind in expected.items():
        args += (kind, key.partition(b"}:")[2])

    def read(names: list[bytes]) -> list[str]:
        return [text(name) for name in names]

    return script_call("set_aside_wrong_types", list(expected), args, read)
