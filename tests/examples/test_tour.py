from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from tests.eventually import eventually
from tests.examples.program import Program, run
from tests.redis_state import ask, invariants, key, listed, scores, task_hash

CLIENT = "examples.tour.client"
WORKERS = "examples.tour.workers"
WELCOMES = 13
HOUR = 3600


async def test_client_enqueues_each_task_as_it_says(redis_url: str, redis: Redis) -> None:
    client = run(CLIENT, REDIS_URL=redis_url)
    said = [line.split()[0] for line in client.lines]
    first = ["pending", "scheduled", "scheduled", "pending", "pending", "duplicate"]
    assert said == [*first, *["pending"] * 10]
    assert len(await listed(redis, "pending")) == 12
    assert len(await listed(redis, "pending", "critical")) == 1
    assert len(await scores(redis, "scheduled", "low")) == 2


async def test_reminders_are_scheduled_for_tomorrow_and_new_year(
    redis_url: str, redis: Redis
) -> None:
    run(CLIENT, REDIS_URL=redis_url)
    dues = (await scores(redis, "scheduled", "low")).values()
    now = int((await ask(redis, "TIME"))[0])
    assert any(23.9 * HOUR < due - now <= 24 * HOUR for due in dues)
    days = [datetime.fromtimestamp(due, UTC) for due in dues]
    assert any((day.month, day.day, day.hour, day.minute) == (1, 1, 0, 0) for day in days)


async def test_workers_process_what_is_due(redis_url: str, redis: Redis) -> None:
    run(CLIENT, REDIS_URL=redis_url)
    with Program(WORKERS, REDIS_URL=redis_url) as workers:
        await eventually(lambda: workers.output.count("welcome sent") == WELCOMES, within=60)
        await eventually(lambda: workers.output.count("welcome took") == WELCOMES)
    (completed,) = await scores(redis, "completed", "critical")
    assert (await task_hash(redis, completed, "critical"))["result"] == b'{"sent":true}'
    assert not await listed(redis, "pending")
    assert not await invariants(redis)


async def test_reminders_are_sent_when_they_are_due(redis_url: str, redis: Redis) -> None:
    run(CLIENT, REDIS_URL=redis_url)
    for task_id in await scores(redis, "scheduled", "low"):
        await ask(redis, "ZADD", key("low", "scheduled"), "XX", 1, task_id)
    with Program(WORKERS, REDIS_URL=redis_url) as workers:
        await eventually(lambda: "'We miss you' sent to user 42" in workers.output, within=60)
        await eventually(lambda: "'Happy new year' sent to user 42" in workers.output)


async def test_tour_needs_no_redis(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    run(CLIENT, **home)
    with Program(WORKERS, **home) as workers:
        await eventually(lambda: workers.output.count("welcome sent") == WELCOMES, within=60)
