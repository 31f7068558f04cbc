"""What happens to tasks in more than one of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from redis.asyncio import Redis

from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import Archive, Complete, Done, Outcome, Requeue, Retry, Settlement
from asynqpy.errors import BrokerError
from asynqpy.server.recoverer import Recoverer
from tests.fake_clock import FakeClock
from tests.flaky_broker import FlakyBroker
from tests.redis_state import ask, key, message, seed_pending
from tests.topologies.common import CommonRedis

#: One of each kind.
OUTCOMES: list[Outcome] = [Done(), Complete(), Retry(4e9, "no"), Archive("no"), Requeue()]

AnyBroker = TypeVar("AnyBroker", bound=Broker | Admin)

#: A server that takes tasks and is not heard of again.
DEAD = "host1:1234:dead"

#: More seconds than a recoverer watches before it acts.
PATIENCE = 6


class Slow(FlakyBroker):
    """Between the moment a recoverer has read what is silent and the moment it acts, something happens."""

    meanwhile: Callable[[], Awaitable[None]]

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool | BrokerError]:
        await self.meanwhile()
        return await super().settle(settlements)


def name_of(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()


@asynccontextmanager
async def closing(broker: AnyBroker) -> AsyncIterator[AnyBroker]:
    try:
        yield broker
    finally:
        await broker.close()


async def die_with(
    redis: Redis, redis_url: str, clock: FakeClock, *ids: str, **fields: int
) -> None:
    """A server takes these tasks, or else the next one, and is not heard of again; its leases are long silent."""
    await seed_pending(redis, *(message(task_id, **fields) for task_id in ids))
    async with closing(FlakyBroker(redis_url, clock, owner=DEAD)) as worker:
        await worker.dequeue({"default": len(ids) or 1})
    clock.advance(12)


async def watch(recoverer: Recoverer, clock: FakeClock, seconds: int = PATIENCE) -> None:
    """Look once a second, so long."""
    for _ in range(seconds):
        await recoverer.tick()
        clock.advance(1)
    await recoverer.tick()


async def lease_to_go(redis: Redis, clock: FakeClock, task_id: str = "t1") -> None:
    """As if the task had been given away, and a Go worker had taken it: its leases are whole seconds."""
    await ask(redis, "ZADD", key("default", "lease"), int(clock.now()) + 30, task_id)


def expire_leases(redis_server: CommonRedis, seconds: int = 120) -> None:
    """Make each lease end so many seconds ago, by the clock of Redis, its stamp as it was."""
    now = int(redis_server.ask("TIME")[0])
    lease = key("default", "lease")
    for task_id in redis_server.ask("ZRANGE", lease, "0", "-1"):
        stamp = float(redis_server.ask("ZSCORE", lease, task_id.decode())) % 1
        redis_server.ask("ZADD", lease, repr(now - seconds + stamp), task_id.decode())
