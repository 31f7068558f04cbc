"""Whatever producers, workers, recoverers and the clock do in whatever order, a queue stays sound and loses nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import TaskState
from asynqpy.broker.outcomes import (
    Archive,
    Complete,
    Delivery,
    Done,
    Outcome,
    Requeue,
    Retry,
    Settlement,
)
from tests import redis_state as state
from tests.broker.factories import LOCK, new_task
from tests.fake_clock import FakeClock
from tests.raw_redis import raw_client


@asynccontextmanager
async def a_world(redis_url: str) -> AsyncIterator[World]:
    """An empty one. Debug mode would take most of the time."""
    asyncio.get_running_loop().set_debug(False)
    clock = FakeClock()
    brokers = [Broker(redis_url, clock), Broker(redis_url, clock)]
    try:
        async with raw_client(redis_url) as redis:
            await state.ask(redis, "FLUSHALL")
            yield World(redis, brokers, clock)
    finally:
        for broker in brokers:
            await broker.close()


class World:
    """A queue with two workers, and what they believe of it, true or not any more."""

    def __init__(self, redis: Redis, brokers: list[Broker], clock: FakeClock) -> None:
        self.redis, self.brokers, self.clock = redis, brokers, clock
        self.given: list[Delivery] = []
        self.alive: set[str] = set()
        self.enqueued = 0

    async def enqueue(self, task_id: str, kind: TaskState, is_unique: bool) -> None:
        self.enqueued += 1
        now = int(self.clock.now())
        task = new_task(
            task_id,
            state=kind,
            score=now + 10 if kind is TaskState.SCHEDULED else now,
            lock=LOCK if is_unique else "",
            token=str(self.enqueued),
            retention=15,
            group_key="g" if kind is TaskState.AGGREGATING else "",
        )
        answers = [await broker.enqueue([task]) for broker in self.brokers]  # as after a lost reply
        assert type(answers[0][0]) is type(answers[1][0])
        if answers[0] == [None]:
            self.alive.add(task_id)

    async def dequeue(self, worker: int, limit: int) -> None:
        turn = await self.brokers[worker].dequeue({"default": limit})
        assert turn.errors == {}
        self.given += turn.deliveries

    async def settle(self, which: int, outcome: Outcome, repeats: int) -> None:
        """By whoever got the task once, whether it still holds it or not."""
        if not self.given:
            return
        delivery = self.given[which % len(self.given)]
        fence = delivery.lease.fence
        report = Settlement(delivery.message, fence, outcome, self.clock.now())
        for n in range(repeats):
            (answer,) = await self.brokers[n].settle([report])
            if answer is True and isinstance(outcome, Done):
                self.alive.discard(delivery.message.id)

    async def extend(self, worker: int) -> None:
        await self.brokers[worker].extend_lease([delivery.lease for delivery in self.given])

    async def write_result(self, which: int) -> None:
        if self.given:
            lease = self.given[which % len(self.given)].lease
            await self.brokers[0].write_result(lease, b"42")

    async def recover(self, outcome: Outcome) -> None:
        """Two recoverers see the same; one of them acts."""
        now = self.clock.now()
        expired = await self.brokers[0].silent_leases(["default"], now, now)
        reports = [
            Settlement(orphan.message, orphan.lease.score, outcome, now)
            for orphan in await self.brokers[0].orphans(expired)
        ]
        for broker in self.brokers:
            await broker.settle(reports)

    async def forward(self) -> None:
        await self.brokers[0].forward(["default"])

    async def clean(self) -> None:
        await self.brokers[1].delete_expired_completed(["default"])
        completed = await state.scores(self.redis, "completed")
        present = await self.present()
        self.alive -= {i for i in self.alive if i not in present and i not in completed}

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def present(self) -> set[str]:
        prefix = state.task_key("default", "")
        names = await state.ask(self.redis, "KEYS", f"{prefix}*")
        return {name.decode().removeprefix(prefix) for name in names}

    async def check(self) -> None:
        assert await state.invariants(self.redis) == []
        assert await self.present() == self.alive

    async def drain(self) -> None:
        """Let everything run to its end."""
        for _ in range(3):
            await self.advance(100)
            await self.recover(Requeue())
            await self.forward()
            await self.dequeue(0, 500)
            for n in range(len(self.given)):
                await self.settle(n, Done(), 1)
        await self.advance(100)
        await self.clean()
        await self.check()
        left = set(await state.states(self.redis, *await self.present()))
        assert left <= {"archived", "aggregating"}


@dataclass(frozen=True)
class Step:
    """A call of one of the methods above."""

    name: str
    arguments: tuple[Any, ...]

    async def take(self, world: World) -> None:
        await getattr(world, self.name)(*self.arguments)


def step(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(name), st.tuples(*arguments))


IDS = st.sampled_from(["a", "b", "c", "d"])
KINDS = st.sampled_from([TaskState.PENDING, TaskState.SCHEDULED, TaskState.AGGREGATING])
WORKERS, INDEXES = st.integers(0, 1), st.integers(0, 7)
OUTCOMES = st.sampled_from(
    [
        Done(),
        Complete(),
        Retry(1.0, "no"),
        Retry(1.0, "no", counted=False),
        Archive("no"),
        Requeue(),
    ]
)
STEPS = st.one_of(
    step("enqueue", IDS, KINDS, st.booleans()),
    step("dequeue", WORKERS, st.integers(1, 3)),
    step("dequeue", WORKERS, st.integers(1, 3)),
    step("settle", INDEXES, OUTCOMES, st.integers(1, 2)),
    step("settle", INDEXES, OUTCOMES, st.integers(1, 2)),
    step("extend", WORKERS),
    step("write_result", INDEXES),
    step("recover", st.sampled_from([Requeue(), Retry(1.0, "no"), Archive("no")])),
    step("forward"),
    step("clean"),
    step("advance", st.sampled_from([1.0, 20.0, 40.0])),
)
PRELUDE = st.lists(step("enqueue", IDS, KINDS, st.booleans()), min_size=2, max_size=5)


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(prelude=PRELUDE, steps=st.lists(STEPS, min_size=5, max_size=25))
async def test_any_history_leaves_a_sound_queue_that_lost_nothing(
    prelude: list[Step], steps: list[Step], redis_url: str
) -> None:
    async with a_world(redis_url) as world:
        for each in (*prelude, *steps):
            await each.take(world)
            await world.check()
        await world.drain()


async def test_a_drained_queue_leaves_only_its_name_and_its_counters(redis_url: str) -> None:
    """Nothing that grows with the number of tasks may stay."""
    kinds = [TaskState.PENDING, TaskState.SCHEDULED]
    outcomes: list[Outcome] = [Done(), Complete(), Retry(1.0, "no"), Requeue()]
    async with a_world(redis_url) as world:
        for n in range(100):
            await world.enqueue(f"t{n}", kinds[n % 2], n % 3 == 0)
            await world.dequeue(n % 2, 1)
            await world.settle(n, outcomes[n % 4], 2)
        await world.drain()
        names = ["processed", "processed:day", "failed", "failed:day"]
        expected = {"asynq:queues", *(state.key("default", name) for name in names)}
        # Of one day or, around midnight, of two.
        left = {re.sub(r":\d{4}-\d\d-\d\d$", ":day", it) for it in await state.dump(world.redis)}
        assert left == expected
