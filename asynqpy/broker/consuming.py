"""Calls of the scripts that give out tasks, and that list the leases of those nobody cares for any more."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH, chunks
from asynqpy.broker.exchange import Word
from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import STAMPS, Delivery, Grant, Lease, Orphan, SilentLease
from asynqpy.broker.scripts import Call, command, script_call
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


def stamps() -> Iterator[int]:
    """Stamps for the leases of one server: a new one each time, from a random start, never Go's 0."""
    stamp = random.randrange(1, STAMPS)
    while True:
        yield stamp
        stamp = stamp % (STAMPS - 1) + 1


def score(expires_at: float, stamp: int) -> str:
    """The lease score: whole seconds of the expiry, the stamp as its fraction; exact in a double."""
    return repr(int(expires_at) + stamp / STAMPS)


def dequeue_call(grant: Grant, limit: int, *, tell_since: bool = False) -> Call[Dequeued]:
    """Ask the queue of the grant for at most ``limit`` tasks, and never more than a batch.

    ``tell_since``: also since when each has been pending.
    """
    queue, stamp = grant.queue, grant.stamp
    script_keys = [keys.pending(queue), keys.paused(queue), keys.active(queue), keys.lease(queue)]
    args: list[Word] = [
        keys.task_prefix(queue),
        min(limit, MAX_BATCH),
        score(grant.granted_until, stamp),
        grant.owner,
        int(tell_since),
    ]

    def read(answer: tuple[int, list[bytes], list[bytes], list[bytes]]) -> Dequeued:
        backlog, tasks, repeated, since = answer
        deliveries, unreadable = [], []
        since = since or [b""] * (len(tasks) // 2)
        for raw_id, data, at in zip(tasks[::2], tasks[1::2], since, strict=True):
            try:
                message = message_of(queue, raw_id, data)
            except MalformedMessageError as error:
                unreadable.append(Unreadable(raw_id, str(stamp), str(error)))
            else:
                lease = Lease(queue, message.id, stamp, grant.expires_at)
                deliveries.append(Delivery(message, lease, int(at) if at.isdigit() else None))
        names = [text(raw_id) for raw_id in repeated]
        return Dequeued(queue, backlog, deliveries, unreadable, names)

    return script_call("dequeue", script_keys, args, read)


def extend_grant_call(grant: Grant, expires_at: int) -> Call[int]:
    """Extend what the grant has given out so far until ``expires_at`` (unix s); answers how many leases that are."""
    args = [grant.stamp, grant.granted_until, grant.longest, expires_at]
    return script_call("extend_grant", [keys.lease(grant.queue)], args, int)


def requeue_grant_call(grant: Grant, now_ns: int) -> Call[int]:
    """Put back what the grant has given out so far; answers how many tasks that are."""
    queue = grant.queue
    args: list[Word] = [keys.task_prefix(queue), now_ns, grant.stamp]
    args += (grant.granted_until, grant.longest, grant.owner)
    script_keys = [keys.active(queue), keys.lease(queue), keys.pending(queue)]
    return script_call("requeue_grant", script_keys, args, int)


#: Leases of a queue that one call looks at: more than a large fleet that died at once leaves behind.
_LOOK_AT = 5_000


def silent_leases_call(queue: str, until: float, go_until: float) -> Call[list[SilentLease]]:
    """Ask for the leases that end at or before ``until``, those of Go at or before ``go_until`` (unix s)."""

    def read(answer: list[bytes]) -> list[SilentLease]:
        return [_silent_lease(queue, *words) for words in chunks(answer, 4)]

    args: list[Word] = [keys.task_prefix(queue), int(until), int(go_until), _LOOK_AT]
    return script_call("silent_leases", [keys.lease(queue)], args, read)


def _silent_lease(
    queue: str, raw_id: bytes, score: bytes, owner: bytes, crashes: bytes
) -> SilentLease:
    number = int(crashes) if crashes.isdigit() else 0
    lease = SilentLease(queue, raw_id, score.decode(), crashes=number)
    # A Go worker leaves the field as an earlier owner wrote it.
    return lease if lease.is_go else replace(lease, owner=text(owner))


def orphan_call(lease: SilentLease) -> Call[Orphan | Unreadable]:
    """Ask for the message of a task that nobody holds any more."""

    def read(data: bytes | None) -> Orphan | Unreadable:
        try:
            return Orphan(message_of(lease.queue, lease.id, data or b""), lease)
        except MalformedMessageError as error:
            return Unreadable(lease.id, lease.score, str(error))

    return command("HGET", keys.task_prefix(lease.queue).encode() + lease.id, "msg", read=read)


def text(raw: bytes) -> str:
    """Bytes of Redis to be shown, or an id. What is no UTF-8 becomes another text."""
    return raw.decode("utf-8", "replace")


def message_of(queue: str, task_id: bytes, data: bytes) -> TaskMessage:
    """The message of this very task; raises ``MalformedMessageError`` for anything else."""
    if not data:
        raise MalformedMessageError("there is an id, but no message")
    message = TaskMessage.decode(data)
    if message.id.encode() != task_id or message.queue != queue:
        raise MalformedMessageError(
            f"the message is that of task {message.id!r} of queue {message.queue!r}"
        )
    return message
