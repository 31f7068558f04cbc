"""What a worker holds, and what can become of it: plain values between the server and the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from asynqpy.broker.messages import TaskMessage

#: Seconds a lease lasts from its last extension (asynq's constant: Go's recoverer counts on it).
LEASE_SECONDS = 30

#: A stamp is a whole number in [1, STAMPS): the fraction of a lease score in units of 1/STAMPS. With 31 bits of
#: seconds before the point a double still holds 21 bits after it exactly. Go writes whole seconds: stamp 0 is Go's.
STAMPS = 1 << 21


class Lease(msgspec.Struct, eq=False):
    """The right to run a task until ``expires_at`` (unix s), proved by ``stamp`` in the lease's score.

    The stamp stays the same through extensions and is new for each dequeue, so a run whose task was given away and
    taken again, even by the same server, can settle and extend nothing.
    """

    queue: str
    id: str
    stamp: int
    expires_at: float

    @property
    def fence(self) -> str:
        """What a script compares with the stored score before it acts."""
        return str(self.stamp)


@dataclass(slots=True, eq=False)
class Grant:
    """Leases that a dequeue under way may be giving out: all under ``stamp`` and ``owner``, until ``expires_at``.

    Until its answer has been read nobody knows of which tasks, but they can be extended, or put back, all the same:
    ``granted_until`` is the expiry that the dequeue itself writes, ``longest`` the last one that an extension may have
    written (all in whole unix s).
    """

    queue: str
    stamp: int
    owner: str
    granted_until: int
    expires_at: int
    longest: int


class Delivery(msgspec.Struct, frozen=True):
    """A task that dequeue handed to this server. ``pending_since`` (unix ns) is told where that was asked for."""

    message: TaskMessage
    lease: Lease
    pending_since: int | None = None


class Done(msgspec.Struct, frozen=True):
    """Delete the task: it succeeded without retention, or was revoked. Counts as processed."""


class Complete(msgspec.Struct, frozen=True):
    """Keep the task as completed until its retention ends. Counts as processed."""


class Retry(msgspec.Struct, frozen=True):
    """Try again at ``at`` (unix s). Only a ``counted`` failure uses up an attempt and is counted.

    ``crashes`` workers have died with the task, one after the other, if no attempt has ended since.
    """

    at: float
    error: str
    counted: bool = True
    crashes: int | None = None


class Archive(msgspec.Struct, frozen=True):
    """Keep the task as archived. Counts as processed and failed."""

    error: str


class Requeue(msgspec.Struct, frozen=True):
    """Put the task back as the next to run; nothing is counted but the ``crashes``, if that is why."""

    crashes: int | None = None


Outcome: TypeAlias = Done | Complete | Retry | Archive | Requeue


class Settlement(msgspec.Struct, frozen=True):
    """An outcome on its way to Redis.

    ``fence`` is the ``Lease.fence`` of the holder, or for a task whose holder died the exact lease score as it was
    read. ``ended_at`` (unix s) is when the outcome was decided: with it a settlement sent again writes the same bytes.
    """

    message: TaskMessage
    fence: str
    outcome: Outcome
    ended_at: float


@dataclass(slots=True, frozen=True)
class SilentLease:
    """A lease that nobody has extended for a while, and the exact score that says so.

    ``owner`` is the server that took the task, "" where that is unknown: a server of Go, whose leases end at whole
    seconds. ``crashes`` workers have died with the task before. The id is as stored, which may be no text.
    """

    queue: str
    id: bytes
    score: str
    owner: str = ""
    crashes: int = 0

    @property
    def expires_at(self) -> float:
        """Unix s."""
        return float(self.score)

    @property
    def is_go(self) -> bool:
        """Whether the lease was written by Go, by the clock of its host."""
        return self.expires_at.is_integer()


@dataclass(slots=True, frozen=True)
class Orphan:
    """A task that nobody holds any more, and the lease that says so."""

    message: TaskMessage
    lease: SilentLease
