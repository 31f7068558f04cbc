from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from redis.asyncio import Redis

from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.broker import Broker
from asynqpy.broker.messages import SchedulerEnqueueEvent, SchedulerEntry
from tests.broker.factories import SERVER, WORKER
from tests.fake_clock import FakeClock
from tests.redis_state import ask

OTHER = msgspec.structs.replace(SERVER, server_id="o", pid=2)
ITS_WORKER = msgspec.structs.replace(WORKER, server_id="o", pid=2)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Scheduler:
    redis: Redis
    name: str
    clock: FakeClock

    async def show(self, *entries: bytes, ttl: int = 20) -> None:
        key = f"asynq:schedulers:{{{self.name}}}"
        await ask(self.redis, "ZADD", "asynq:schedulers", self.clock.now() + ttl, key)
        if entries:
            await ask(self.redis, "LPUSH", key, *entries)


def entry(name: str, prev: datetime | None = None) -> SchedulerEntry:
    return SchedulerEntry(
        id=name,
        spec="@every 30s",
        task_type="t",
        task_payload=b"p",
        enqueue_options=['Queue("low")'],
        next_enqueue_time=AT,
        prev_enqueue_time=prev,
    )


async def test_servers_come_with_what_each_of_them_runs(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    broker = Broker(redis, clock)
    await broker.write_server_state(SERVER, [WORKER], 10)
    await broker.write_server_state(OTHER, [], 10)
    found = {server.server_id: (server, workers) for server, workers in await admin.servers()}
    assert found == {"s": (SERVER, [WORKER]), "o": (OTHER, [])}


async def test_server_that_shows_itself_no_more_is_none(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    await Broker(redis, clock).write_server_state(SERVER, [WORKER], 10)
    await Broker(redis, clock).write_server_state(OTHER, [ITS_WORKER], 10)
    await ask(redis, "DEL", f"asynq:servers:{{{OTHER.owner}}}")
    assert [server.server_id for server, _ in await admin.servers()] == ["s"]
    clock.advance(11)
    assert await admin.servers() == []
    # Looking changes nothing: the clock that looks may be wrong.
    assert await ask(redis, "ZCARD", "asynq:servers") == 2


async def test_presence_that_cannot_be_read_is_left_out(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    broker = Broker(redis, clock)
    await broker.write_server_state(SERVER, [WORKER], 10)
    await broker.write_server_state(OTHER, [ITS_WORKER], 10)
    await ask(redis, "SET", f"asynq:servers:{{{OTHER.owner}}}", b"\xff\xff")
    await ask(redis, "HSET", f"asynq:workers:{{{SERVER.owner}}}", "bad", b"\xff\xff")
    assert await admin.servers() == [(SERVER, [WORKER])]
    await ask(redis, "DEL", f"asynq:workers:{{{SERVER.owner}}}")
    await ask(redis, "SET", f"asynq:workers:{{{SERVER.owner}}}", "no hash")
    assert await admin.servers() == [(SERVER, [])]


async def test_entries_of_schedulers_come_in_the_order_of_registration(
    admin: Admin, redis: Redis, clock: FakeClock
) -> None:
    first, second = entry("e1"), entry("e2", prev=AT)
    scheduler = Scheduler(redis, "h:1:s", clock)
    await scheduler.show(first.encode(), b"\xff\xff", second.encode())
    await Scheduler(redis, "h:2:s", clock).show()
    await Scheduler(redis, "h:3:s", clock).show(entry("dead").encode(), ttl=-5)
    assert await admin.scheduler_entries() == [first, second]


async def test_events_of_an_entry_come_with_the_latest_first(admin: Admin, redis: Redis) -> None:
    events = [
        SchedulerEnqueueEvent(task_id=f"t{n}", enqueue_time=AT.replace(second=n)) for n in range(5)
    ]
    for event in events:
        at = event.enqueue_time.timestamp()
        await ask(redis, "ZADD", "asynq:scheduler_history:e1", at, event.encode())
    assert await admin.scheduler_events("e1", 0, 2) == [events[4], events[3]]
    assert await admin.scheduler_events("e1", 2, 9) == [events[2], events[1], events[0]]
    assert await admin.scheduler_events("e2", 0, 9) == []
