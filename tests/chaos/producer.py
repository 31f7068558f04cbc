"""Producers: enqueue, and write down what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from asynqpy import Client, Task, TaskInfo
from asynqpy.errors import AsynqError, BrokerError, TaskIdConflictError
from tests.chaos.journal import Journal

#: Tasks that are enqueued in one call, at most.
BATCH = 100

#: The note about an enqueue that was repeated, and told of a conflict with itself.
OWN_CONFLICT = "conflict with an earlier try of the same enqueue"

_PAUSE = 0.05
_GIVE_UP = 120.0


@dataclass(frozen=True, slots=True)
class Order:
    """A task to enqueue, with an id of our own: so a repeated enqueue makes no second task."""

    task_id: str
    type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def task(self) -> Task:
        return Task(self.type, json.dumps(self.payload), **self.options, task_id=self.task_id)


class Producer:
    """Enqueues orders, so many a second or as fast as it can; journals ``acked``, ``uncertain`` and ``refused``.

    What got no answer is repeated until it has one. A conflict then means that it was stored the first time.
    ``options`` are those of the ``Client``.
    """

    def __init__(self, url: str, journal: Journal, **options: Any) -> None:
        self._url = url
        self._options = options
        self._journal = journal

    async def run(self, orders: Iterable[Order], rate: float | None = None) -> None:
        began, sent = time.monotonic(), 0
        async with Client(self._url, **self._options) as client:
            for batch in batches(orders, rate):
                await self._enqueue(client, batch)
                sent += len(batch)
                if rate is not None:
                    await asyncio.sleep(began + sent / rate - time.monotonic())

    async def _enqueue(self, client: Client, orders: list[Order]) -> None:
        doubted: set[str] = set()
        deadline = time.monotonic() + _GIVE_UP
        while orders:
            outcomes = await client.enqueue_many([order.task() for order in orders])
            pairs = list(zip(orders, outcomes, strict=True))
            self._journal_outcomes(pairs, doubted)
            orders = [o for o, outcome in pairs if isinstance(outcome, BrokerError)]
            if orders and time.monotonic() > deadline:
                raise TimeoutError(f"{len(orders)} tasks could not be enqueued: {outcomes[0]}")
            doubted.update(order.task_id for order in orders)
            if orders:
                await asyncio.sleep(_PAUSE)

    def _journal_outcomes(
        self, pairs: list[tuple[Order, TaskInfo | AsynqError]], doubted: set[str]
    ) -> None:
        acked = [
            order.task_id
            for order, outcome in pairs
            if isinstance(outcome, TaskInfo)
            or (isinstance(outcome, TaskIdConflictError) and order.task_id in doubted)
        ]
        if acked:
            self._journal.write_many("acked", acked)
        for order, outcome in pairs:
            if isinstance(outcome, BrokerError):
                self._journal.write("uncertain", order.task_id, outcome)
            elif isinstance(outcome, TaskIdConflictError) and order.task_id in doubted:
                self._journal.write("note", order.task_id, OWN_CONFLICT)
            elif isinstance(outcome, AsynqError) and order.task_id not in doubted:
                self._journal.write("refused", order.task_id, outcome)


def batches(orders: Iterable[Order], rate: float | None) -> Iterator[list[Order]]:
    """As many as fall into 20 ms, at most ``BATCH``."""
    size = BATCH if rate is None else min(BATCH, max(1, int(rate / 50)))
    source = iter(orders)
    while batch := list(islice(source, size)):
        yield batch
