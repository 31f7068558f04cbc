"""Producers and a worker, and the books that are kept of what they did."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from itertools import count

from asynqpy import ActiveTask, BrokerUnavailableError, Client, Task

#: A cluster keeps a queue on one node, all of it. These three lie on three.
QUEUES = ("emails", "critical", "low")

#: Seconds between two tasks of a producer, what a task takes, and until what could not be enqueued is tried again.
PACE, WORK, PAUSE = 0.03, 0.02, 0.2


class Books:
    """Of one queue: what Redis took from its producer, what the worker ran, and how long it ran nothing."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.runs: Counter[str] = Counter()
        self.failures = 0
        self.longest_pause = 0.0
        self._last = time.monotonic()

    async def run(self, task: ActiveTask) -> None:
        """The handler."""
        await asyncio.sleep(WORK)
        self.runs[task.id] += 1
        self.longest_pause = max(self.longest_pause, self.pause)
        self._last = time.monotonic()

    @property
    def pause(self) -> float:
        """Seconds since the last task ended."""
        return time.monotonic() - self._last

    @property
    def missing(self) -> int:
        """Acknowledged tasks that have not run, or not yet."""
        return len(self.acknowledged - self.runs.keys())

    def glance(self) -> str:
        quiet = f"nothing for {self.pause:.1f} s" if self.pause > 0.5 else ""
        return f"{len(self.runs):5,} done {quiet:18}"

    def summary(self) -> str:
        again = sum(1 for runs in self.runs.values() if runs > 1)
        return (
            f"enqueued {len(self.acknowledged):,}, done {len(self.runs):,}, missing {self.missing}, "
            f"run twice {again}, enqueue failed and was repeated {self.failures} times; "
            f"longest pause {self.longest_pause:.1f} s"
        )


async def produce(client: Client, queue: str, books: Books) -> None:
    """Enqueue for ever, each task until Redis has taken it."""
    for number in count():
        await insist(client, Task("work", task_id=f"{number}", queue=queue), books)
        await asyncio.sleep(PACE)


async def insist(client: Client, task: Task, books: Books) -> None:
    """Under its id: what Redis took, but could not say so, is not enqueued twice."""
    while True:
        try:
            info = await client.enqueue(task)
        except BrokerUnavailableError:
            books.failures += 1
            await asyncio.sleep(PAUSE)
        else:
            books.acknowledged.add(info.id)
            return


async def settle(books: Mapping[str, Books], patience: float) -> None:
    """Wait until all that was acknowledged has run, but not for ever: a fail-over may have lost some."""
    for _ in range(round(patience / PAUSE)):
        if not any(each.missing for each in books.values()):
            return
        await asyncio.sleep(PAUSE)
