"""Producers that contend for the same unique locks and the same task ids, and what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from asynqpy import Client, Task
from asynqpy.errors import DuplicateTaskError, TaskIdConflictError
from tests.chaos.journal import Journal

LOCKS, IDS = "locks", "ids"

#: So many producers try each task id.
RIVALS = 8

#: Longer than any run: a lock that expires while its task is alive protects nothing.
_FOR_LONG = 600

#: An archived task keeps its lock, so there is a new one to be had each so many seconds.
_EPOCH = 2.0


@dataclass
class Contest:
    """What all producers share.

    ``holders``: lock -> ids of the tasks that got it. ``winners``: task id -> how many producers were told that they
    stored it. ``duplicates`` and ``conflicts``: how often they were refused.
    """

    journal: Journal
    dice: random.Random
    locks: int
    holders: dict[str, list[str]] = field(default_factory=dict)
    winners: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    conflicts: int = 0
    _numbers: count[int] = field(default_factory=count)

    async def produce(self, url: str, producers: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(producers):
                group.create_task(self._one(url, until))

    async def _one(self, url: str, until: float) -> None:
        async with Client(url) as client:
            while time.monotonic() < until:
                await (self._lock(client) if self.dice.random() < 0.7 else self._id(client))
                await asyncio.sleep(self.dice.uniform(0, 0.1))

    async def _lock(self, client: Client) -> None:
        lock = self.dice.randrange(self.locks)
        task_id = f"lock{lock}-{next(self._numbers)}"
        task, options = _of_lock(lock)
        name = str(task.payload)
        try:
            await client.enqueue(task, task_id=task_id, queue=LOCKS, unique=_FOR_LONG, **options)
        except DuplicateTaskError:
            self.duplicates += 1
            return
        self.journal.write("acked", task_id)
        self.holders.setdefault(name, []).append(task_id)

    async def _id(self, client: Client) -> None:
        task_id = f"id{next(self._numbers) // RIVALS}"
        task = Task("sleep", json.dumps({"ms": 5}))
        try:
            await client.enqueue(task, task_id=task_id, queue=IDS, retention=_FOR_LONG)
        except TaskIdConflictError:
            self.conflicts += 1
            return
        self.winners[task_id] += 1
        self.journal.write("acked", task_id)


def _of_lock(lock: int) -> tuple[Task, Mapping[str, Any]]:
    """A type and a payload of its own, and so one way for its tasks to go."""
    epoch = int(time.monotonic() / _EPOCH)
    paths: list[tuple[str, dict[str, int], dict[str, int]]] = [
        ("sleep", {"ms": 5}, {}),
        ("sleep", {"ms": 400}, {}),
        ("fail", {"ms": 5, "fails": 1}, {}),
        ("fail", {"ms": 5, "fails": 1, "epoch": epoch}, {"max_retry": 0}),
        ("sleep", {"ms": 50}, {"process_in": 1}),
    ]
    kind, payload, options = paths[lock % len(paths)]
    return Task(kind, json.dumps({**payload, "lock": lock})), options
