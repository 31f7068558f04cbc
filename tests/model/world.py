"""The world of a machine: a real Redis, a clock, and what clients, workers and recoverers know or only believe."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from asynqpy.broker.findings import Finding
from asynqpy.broker.healer import Step
from asynqpy.broker.outcomes import Delivery, Grant, Orphan, Settlement, SilentLease
from asynqpy.broker.producing import NewTask
from asynqpy.server.error_report import ErrorReport
from asynqpy.server.recoverer import Recoverer
from tests import redis_state as state
from tests.fake_clock import FakeClock
from tests.model.line import FatefulBroker
from tests.model.queue_state import QUEUE
from tests.raw_redis import raw_client

T = TypeVar("T")

#: A fixed start, so that a failure can be replayed. It lies ahead: counters expire by the clock of Redis.
_START = 2_000_000_000.0


@dataclass
class Worker:
    """A server as far as Redis can tell, and its memory, which a crash takes."""

    owner: str
    broker: FatefulBroker
    held: list[Delivery] = field(default_factory=list)
    #: Settlements without an answer: written or not.
    unsettled: list[Settlement] = field(default_factory=list)
    #: Dequeues without an answer.
    grants: list[Grant] = field(default_factory=list)


@dataclass
class Recovering:
    """What a recoverer has seen and not acted on yet: it may be stale by now."""

    seen: list[SilentLease] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)


class World:
    """Drives one call at a time on an event loop of its own. Close it."""

    def __init__(self, redis_url: str) -> None:
        self._runner = asyncio.Runner(debug=False)
        self.redis = raw_client(redis_url)
        self.clock = FakeClock(_START)
        self._brokers: list[FatefulBroker] = []
        self.client = self.new_broker()
        #: What clients sent and were not answered; old ones give up.
        self.unanswered: deque[list[NewTask]] = deque(maxlen=2)
        self.recoverers = [Recovering(), Recovering()]
        self.recoverer = Recoverer(
            broker=self.client,
            clock=self.clock,
            queues=[QUEUE],
            report=ErrorReport(None),
            owner="of nobody",
            claims=lambda queue, task_id: False,
        )
        self._numbers = count(1)
        self.workers: list[Worker] = []
        self._search = self._searching(heal=True)
        self.run(state.ask(self.redis, "FLUSHALL"))
        for _ in range(2):
            self.workers.append(self._new_worker())
            self.show(self.workers[-1].owner)

    def close(self) -> None:
        for broker in self._brokers:
            self.run(broker.close())
        self.run(self.redis.aclose())
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def search(self, *, heal: bool) -> list[Finding]:
        """Search the queue for damage, and heal it; from beginning to end."""
        return [f async for step in self._searching(heal=heal) for f in step.findings]

    async def search_on(self, steps: int) -> list[Finding]:
        """Go on with a search that heals what it finds, or begin another."""
        findings: list[Finding] = []
        for _ in range(steps):
            step = await anext(self._search, None)
            if step is None:
                self._search = self._searching(heal=True)
            else:
                findings += step.findings
        return findings

    def _searching(self, *, heal: bool) -> AsyncIterator[Step]:
        return self.client.reconciliation(heal=heal).search([QUEUE])

    def next_number(self) -> int:
        return next(self._numbers)

    def new_broker(self, owner: str = "") -> FatefulBroker:
        broker = FatefulBroker(self.redis, self.clock, owner)
        self._brokers.append(broker)
        return broker

    def crash(self, which: int, *, shows: bool = True) -> None:
        """Forget all that a worker knew, and start another in its place. Its presence stays for a while."""
        self.workers[which] = self._new_worker()
        if shows:
            self.show(self.workers[which].owner)

    def _new_worker(self) -> Worker:
        owner = f"host:{self.next_number()}:server"
        return Worker(owner, self.new_broker(owner))

    def show(self, owner: str) -> None:
        """Write the presence of a server: it stays until ``hide``, as the clock of a test moves no TTL."""
        self.run(state.ask(self.redis, "SET", _presence_key(owner), "there"))

    def hide(self, owner: str) -> None:
        self.run(state.ask(self.redis, "DEL", _presence_key(owner)))

    def is_present(self, owner: str) -> bool:
        return bool(self.run(state.ask(self.redis, "EXISTS", _presence_key(owner))))

    def hide_everybody(self) -> None:
        for key in self.run(state.ask(self.redis, "KEYS", _presence_key("*"))):
            self.run(state.ask(self.redis, "DEL", key))


def _presence_key(owner: str) -> str:
    return f"asynq:servers:{{{owner}}}"
