"""Calls of ``dequeue.lua`` and ``lease_expired.lua``, and how their answers become tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH
from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import STAMPS, Delivery, ExpiredLease, Grant, Lease
from asynqpy.broker.scripts import Call, Word, script_call
from asynqpy.errors import MalformedMessageError


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is to be set aside: its id as stored, the fence of its entry, what is wrong with it."""

    id: bytes
    fence: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dequeued:
    """What one queue answered. ``backlog`` is what is still pending (0 while paused)."""

    queue: str
    backlog: int
    deliveries: Sequence[Delivery]
    unreadable: Sequence[Unreadable]
    repeated: Sequence[str]


@dataclass(frozen=True, slots=True)
class Expired:
    """One page of expired leases of a queue."""

    queue: str
    leases: Sequence[ExpiredLease]
    unreadable: Sequence[Unreadable]


def stamps() -> Iterator[int]:
    """Stamps for the leases of one server: a new one each time, from a random start, never Go's 0."""
    stamp = random.randrange(1, STAMPS)
    while True:
        yield stamp
        stamp = stamp % (STAMPS - 1) + 1


def score(expires_at: float, stamp: int) -> str:
    """The lease score: whole seconds of the expiry, the stamp as its fraction; exact in a double."""
    return repr(int(expires_at) + stamp / STAMPS)


def dequeue_call(grant: Grant, limit: int) -> Call[Dequeued]:
    """Ask the queue of the grant for at most ``limit`` tasks, and never more than a batch."""
    queue, stamp = grant.queue, grant.stamp
    script_keys = [keys.pending(queue), keys.paused(queue), keys.active(queue), keys.lease(queue)]
    args: list[Word] = [
        keys.task_prefix(queue),
        min(limit, MAX_BATCH),
        score(grant.granted_until, stamp),
    ]

    def read(answer: tuple[int, list[bytes], list[bytes]]) -> Dequeued:
        backlog, tasks, repeated = answer
        deliveries, unreadable = [], []
        for raw_id, data in zip(tasks[::2], tasks[1::2], strict=True):
            lease = Lease(queue, _text(raw_id), stamp, grant.expires_at)
            try:
                deliveries.append(Delivery(_decode(queue, lease.id, data), lease))
            except MalformedMessageError as error:
                unreadable.append(Unreadable(raw_id, lease.fence, str(error)))
        names = [_text(raw_id) for raw_id in repeated]
        return Dequeued(queue, backlog, deliveries, unreadable, names)

    return script_call("dequeue", script_keys, args, read)


def extend_grant_call(grant: Grant, expires_at: float) -> Call[int]:
    """Extend what the grant has given out so far until ``expires_at`` (unix s); answers how many leases that are."""
    expiries = (expires_at, grant.granted_until, grant.expires_at)
    args = [score(expiry, grant.stamp) for expiry in expiries]
    return script_call("extend_grant", [keys.lease(grant.queue)], args, int)


def lease_expired_call(queue: str, cutoff: float, limit: int) -> Call[Expired]:
    """Ask for at most ``limit`` tasks whose lease ended at or before ``cutoff`` (unix s)."""

    def read(answer: list[bytes]) -> Expired:
        leases, unreadable = [], []
        for raw_id, raw_score, data in zip(answer[::3], answer[1::3], answer[2::3], strict=True):
            fence = raw_score.decode()
            try:
                leases.append(ExpiredLease(_decode(queue, _text(raw_id), data), fence))
            except MalformedMessageError as error:
                unreadable.append(Unreadable(raw_id, fence, str(error)))
        return Expired(queue, leases, unreadable)

    args: list[Word] = [keys.task_prefix(queue), int(cutoff), limit]
    return script_call("lease_expired", [keys.lease(queue)], args, read)


def _text(raw: bytes) -> str:
    """An id as text. One that is no UTF-8 becomes another text, and so matches no message."""
    return raw.decode("utf-8", "replace")


def _decode(queue: str, task_id: str, data: bytes) -> TaskMessage:
    if not data:
        raise MalformedMessageError("there is an id, but no message")
    message = TaskMessage.decode(data)
    if message.id != task_id or message.queue != queue:
        raise MalformedMessageError(
            f"the message is that of task {message.id!r} of queue {message.queue!r}"
        )
    return message
