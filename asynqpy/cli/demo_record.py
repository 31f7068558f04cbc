"""What the demo has seen happen to its tasks: the source of every number it shows.

Its eyes are the hooks that any user has: what ``enqueue`` answers, a middleware, ``error_handler`` and ``retry_delay``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from statistics import median

from asynqpy.errors import SkipRetry
from asynqpy.handler import AsyncHandler
from asynqpy.task import ActiveTask, TaskInfo, TaskState

#: Tasks of one type enqueued together make one event from this number on.
_CROWD = 4

_ENDS = {TaskState.COMPLETED, TaskState.ARCHIVED}


class Kind(StrEnum):
    """What can happen to a task."""

    ENQUEUED = "enqueued"
    SCHEDULED = "scheduled"
    STARTED = "started"
    FAILED = "failed"
    RETRIED = "retried"
    COMPLETED = "completed"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a task, ``at`` s after the beginning."""

    at: float
    kind: Kind
    queue: str
    task_id: str
    note: str = ""


class Record:
    """Counts what happens and knows each task's last state, as far as the worker's hooks tell.

    A task leaves ``scheduled`` and ``retry`` when it starts: that it became pending in between, no hook tells.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._events: list[Event] = []
        self._counts: Counter[tuple[str, Kind]] = Counter()
        self._states: dict[str, tuple[str, TaskState]] = {}
        self._pending_since: dict[str, float] = {}
        self._waits: list[tuple[str, float]] = []
        self._all_ended = asyncio.Event()

    # What the views ask.

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    def count(self, kind: Kind, queue: str | None = None) -> int:
        """How often it happened to tasks of the queue, or of all."""
        return sum(n for (q, k), n in self._counts.items() if k is kind and queue in {None, q})

    def accepted(self, queue: str | None = None) -> int:
        """How many tasks were enqueued, to run at once or later."""
        return self.count(Kind.ENQUEUED, queue) + self.count(Kind.SCHEDULED, queue)

    def in_state(self, queue: str, state: TaskState) -> int:
        """How many tasks of the queue are in the state now."""
        return list(self._states.values()).count((queue, state))

    def median_wait(self, queue: str) -> float:
        """Seconds that a task of the queue was pending before it first started, in the middle of all."""
        return median([wait for q, wait in self._waits if q == queue] or [0.0])

    def take_events(self) -> list[Event]:
        """What happened since this was asked last."""
        taken, self._events = self._events, []
        return taken

    @property
    def unfinished(self) -> int:
        """How many tasks are neither completed nor archived."""
        return sum(state not in _ENDS for _, state in self._states.values())

    async def wait_until_all_ended(self) -> None:
        """Wait for every task so far to be completed or archived."""
        await self._all_ended.wait()

    # What the hooks tell.

    def enqueued(self, infos: Iterable[TaskInfo]) -> None:
        """These tasks were accepted, in one call."""
        for (queue, state, _), group in groupby(infos, lambda i: (i.queue, i.state, i.type)):
            tasks = list(group)
            kind = Kind.SCHEDULED if state is TaskState.SCHEDULED else Kind.ENQUEUED
            self._counts[queue, kind] += len(tasks)
            self._note_new(kind, tasks)
            for info in tasks:
                # The worker may have been faster than the answer to the producer.
                self._states.setdefault(info.id, (queue, state))
                if kind is Kind.ENQUEUED:
                    self._pending_since.setdefault(info.id, self.elapsed)
        self._look_whether_all_ended()

    async def watch(self, task: ActiveTask, call_next: AsyncHandler) -> None:
        """The middleware: sees attempts start and succeed."""
        began = self.elapsed
        if task.id in self._pending_since and not task.retried:
            self._waits.append((task.queue, began - self._pending_since[task.id]))
        self._happened(Kind.STARTED, task, TaskState.ACTIVE)
        await call_next(task)
        self._happened(
            Kind.COMPLETED, task, TaskState.COMPLETED, f"after {self.elapsed - began:.1f} s"
        )

    def failed(self, task: ActiveTask, error: BaseException) -> None:
        """The error handler: sees attempts fail, and knows from the task whether another one follows."""
        attempt = f"attempt {task.retried + 1} of {task.max_retry + 1}"
        self._happened(Kind.FAILED, task, TaskState.RETRY, f"{error} ({attempt})")
        if isinstance(error, SkipRetry):
            self._happened(Kind.ARCHIVED, task, TaskState.ARCHIVED, "its handler said SkipRetry")
        elif task.retried >= task.max_retry:
            self._happened(Kind.ARCHIVED, task, TaskState.ARCHIVED, "no attempts left")

    def retried(self, task: ActiveTask, delay: float) -> None:
        """The server asked for the delay (s) until the next attempt."""
        self._happened(Kind.RETRIED, task, TaskState.RETRY, f"again within {delay:g} s")

    def _note_new(self, kind: Kind, tasks: Sequence[TaskInfo]) -> None:
        shown = [(info, _plan(info)) for info in tasks]
        if len(tasks) >= _CROWD:
            shown = [(tasks[0], f"and {len(tasks) - 1} more in one round trip")]
        for info, note in shown:
            self._events.append(Event(self.elapsed, kind, info.queue, info.id, note))

    def _happened(self, kind: Kind, task: ActiveTask, state: TaskState, note: str = "") -> None:
        self._counts[task.queue, kind] += 1
        self._states[task.id] = (task.queue, state)
        self._events.append(Event(self.elapsed, kind, task.queue, task.id, note))
        self._look_whether_all_ended()

    def _look_whether_all_ended(self) -> None:
        (self._all_ended.clear if self.unfinished else self._all_ended.set)()


def _plan(info: TaskInfo) -> str:
    if info.state is not TaskState.SCHEDULED or info.next_process_at is None:
        return ""
    return f"for {info.next_process_at.astimezone():%H:%M:%S}"
