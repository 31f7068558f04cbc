"""The tasks that this server runs now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from asynqpy.broker.outcomes import Delivery, Grant, Lease
from asynqpy.task import ActiveTask, CancelCause


class Run:
    """One attempt at one task.

    ``started_at`` and ``deadline`` are unix s. Once the handler has ``ended``, its outcome stands and no cancel changes
    it.
    """

    __slots__ = (
        "begun",
        "deadline",
        "delivery",
        "ended",
        "job",
        "lapsed",
        "lease",
        "message",
        "slot",
        "started_at",
        "task",
    )

    def __init__(
        self, delivery: Delivery, task: ActiveTask, *, started_at: float, deadline: float
    ) -> None:
        self.delivery = delivery
        self.message = delivery.message
        self.lease = delivery.lease
        self.task = task
        self.started_at = started_at
        self.deadline = deadline
        #: Where ``Deadlines`` keeps it.
        self.slot = 0
        self.begun = False
        self.ended = False
        #: Whether the lease ran out for want of Redis: nobody need have taken the task, and the fence will tell.
        self.lapsed = False
        #: The asyncio task that carries the handler.
        self.job: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Run {self.message.type} {self.message.id} stamp {self.lease.stamp}>"

    def abort(self) -> None:
        """Cancel for a shutdown; a run that has ended is still waiting for the error handler."""
        if self.ended and self.job is not None:
            self.job.cancel()
        self.cancel(CancelCause.SHUTDOWN)

    def cancel(self, cause: CancelCause) -> None:
        """Cancel the handler, which learns the cause. Only on the server's loop.

        A handler that swallowed an earlier cancel is cancelled again. The last cause counts, but a lost lease stays
        lost.
        """
        if self.job is None or self.ended:
            return
        if not self.begun:
            # A job cancelled before its first step never runs at all, and nobody would settle the task.
            asyncio.get_running_loop().call_soon(self.cancel, cause)
            return
        if self.task.cancel_cause is not CancelCause.LEASE_LOST:
            self.task.cancel_cause = cause
        self.job.cancel(cause)


class Runs:
    """All attempts of this server, and the leases it holds for them. Changed on the server's loop; other threads look
    through ``snapshot``, ``held`` and ``granted``.

    A run is here until its handler and the error handler have ended. Its lease is held for longer, until Redis has been
    told the outcome: a blocked loop must not lose what has ended and waits to be written. A task that was given away
    and dequeued again may be running here twice for a moment.
    """

    def __init__(self) -> None:
        #: In the order of their start.
        self._runs: dict[Run, None] = {}
        self._held: dict[Lease, Run] = {}
        self._grants: dict[int, Sequence[Grant]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        #: How many have been removed.
        self.ended = 0

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.snapshot())

    def add(self, run: Run) -> None:
        self._runs[run] = None
        self._held[run.lease] = run
        self._empty.clear()

    def remove(self, run: Run) -> bool:
        """Answers whether it was still there."""
        was_there = run in self._runs
        self._runs.pop(run, None)
        self.ended += was_there
        if not self._runs:
            self._empty.set()
        return was_there

    def let_go(self, lease: Lease) -> None:
        """Hold the lease no longer: its task is settled, or is to lapse."""
        self._held.pop(lease, None)

    @contextmanager
    def granting(self, grants: Sequence[Grant]) -> Iterator[None]:
        """Hold whatever a dequeue gives out while its answer is under way."""
        self._grants[id(grants)] = grants
        try:
            yield
        finally:
            del self._grants[id(grants)]

    # Copied in one step of the interpreter, so also safe from a thread.

    def snapshot(self) -> list[Run]:
        """The runs."""
        return list(self._runs)

    def held(self) -> dict[Lease, Run]:
        """The leases to be kept."""
        return self._held.copy()

    def granted(self) -> list[Grant]:
        """The leases that dequeues under way may be giving out."""
        return [grant for grants in list(self._grants.values()) for grant in grants]

    def cancel(self, task_id: str, cause: CancelCause) -> None:
        """Cancel every run of this task."""
        for run in self:
            if run.message.id == task_id:
                run.cancel(cause)

    async def wait_until_empty(self) -> None:
        await self._empty.wait()
