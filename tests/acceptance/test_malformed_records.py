"""Records that no client would write: they are told, set aside with every byte, and block nobody."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask, BrokerError, Client, Task
from tests.acceptance.serving import serving
from tests.eventually import eventually
from tests.redis_state import ask, dump, invariants, key, message, seed_pending, task_key

GARBAGE = b"\xff\xff no protobuf"
QUARANTINE = "asynqpy:{default}:quarantine"


async def undecodable_message(redis: Redis) -> None:
    await ask(redis, "HSET", task_key("default", "bad"), "msg", GARBAGE, "state", "pending")
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


async def id_without_a_hash(redis: Redis) -> None:
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


async def hash_without_a_message(redis: Redis) -> None:
    await ask(redis, "HSET", task_key("default", "bad"), "state", "pending")
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


async def message_of_another_task(redis: Redis) -> None:
    data = message("other").SerializeToString()
    await ask(redis, "HSET", task_key("default", "bad"), "msg", data, "state", "pending")
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


async def task_that_is_no_hash(redis: Redis) -> None:
    await ask(redis, "SET", task_key("default", "bad"), GARBAGE)
    await ask(redis, "LPUSH", key("default", "pending"), "bad")


async def scheduled_id_without_a_hash(redis: Redis) -> None:
    await ask(redis, "ZADD", key("default", "scheduled"), 1_700_000_000, "bad")


async def expired_lease_without_a_hash(redis: Redis) -> None:
    await ask(redis, "LPUSH", key("default", "active"), "bad")
    await ask(redis, "ZADD", key("default", "lease"), 1_700_000_000, "bad")


BAD_RECORDS = [
    undecodable_message,
    id_without_a_hash,
    hash_without_a_message,
    message_of_another_task,
    task_that_is_no_hash,
    scheduled_id_without_a_hash,
    expired_lease_without_a_hash,
]


class Worked(list[str]):
    """Ids of the tasks that were handled."""

    async def handle(self, task: ActiveTask) -> None:
        self.append(task.id)


@pytest.mark.parametrize("spoil", BAD_RECORDS, ids=lambda spoil: spoil.__name__)
async def test_bad_record_is_set_aside_and_healthy_tasks_go_on(
    redis_url: str,
    redis: Redis,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Redis], Awaitable[None]],
) -> None:
    worked = Worked()
    await seed_pending(redis, message("before"))
    await spoil(redis)
    await seed_pending(redis, message("after"))
    bytes_before = await ask(redis, "DUMP", task_key("default", "bad"))
    async with Client(redis_url) as client, serving(redis_url, worked.handle):
        await eventually(lambda: len(worked) == 2)
        await eventually(lambda: ask(redis, "ZSCORE", QUARANTINE, "bad"), within=15)
        await client.enqueue(Task("t"), task_id="later")
        await eventually(lambda: len(worked) == 3)
    assert sorted(worked) == ["after", "before", "later"]
    assert await invariants(redis) == []
    assert bool(await ask(redis, "EXISTS", f"{QUARANTINE}:bad")) == bool(bytes_before)
    assert "set task bad of queue default aside" in "\n".join(errors(caplog))


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.ERROR]


async def test_undecodable_message_keeps_its_bytes(redis_url: str, redis: Redis) -> None:
    await undecodable_message(redis)
    async with serving(redis_url, Worked().handle):
        await eventually(lambda: ask(redis, "EXISTS", f"{QUARANTINE}:bad"))
    assert await ask(redis, "HGET", f"{QUARANTINE}:bad", "msg") == GARBAGE


@pytest.mark.parametrize("name", ["pending", "active", "lease", "scheduled", "retry", "completed"])
async def test_key_of_the_wrong_type_is_set_aside_and_the_queue_goes_on(
    redis_url: str, redis: Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    worked = Worked()
    await ask(redis, "SET", key("default", name), GARBAGE)
    async with Client(redis_url) as client, serving(redis_url, worked.handle, queues=TWO_QUEUES):
        await client.enqueue(Task("t"), task_id="elsewhere", queue="other")
        is_kept_out = False
        try:
            await client.enqueue(Task("t"), task_id="here")
        except BrokerError:
            is_kept_out = True
        await eventually(lambda: ask(redis, "EXISTS", f"{QUARANTINE}:key:{name}"))
        if is_kept_out:
            await client.enqueue(Task("t"), task_id="here")
        await eventually(lambda: len(worked) == 2)
    assert sorted(worked) == ["elsewhere", "here"]
    assert await ask(redis, "GET", f"{QUARANTINE}:key:{name}") == GARBAGE
    assert await invariants(redis) == []
    assert "a key of queue default held the wrong type of value" in "\n".join(errors(caplog))


TWO_QUEUES = {"default": 1, "other": 1}


async def test_counter_of_the_wrong_type_stops_no_task(redis_url: str, redis: Redis) -> None:
    worked = Worked()
    await ask(redis, "LPUSH", key("default", "processed"), "no number")
    await seed_pending(redis, message("a"), message("b"))
    async with serving(redis_url, worked.handle):
        await eventually(lambda: len(worked) == 2)
    assert sorted(worked) == ["a", "b"]
    assert not [name for name in await dump(redis) if ":t:" in name]


@pytest.mark.parametrize("limits", [{"deadline": 1_795_417_717_000}, {"timeout": 2**62}])
async def test_limit_past_the_year_9999_holds_nobody_up(
    redis_url: str, redis: Redis, limits: dict[str, int]
) -> None:
    """Somebody took milliseconds for seconds: the task runs, and so does its neighbour."""
    await seed_pending(redis, message("far", **({"timeout": 0} | limits)), message("near"))
    seen: list[str] = []

    async def handle(task: ActiveTask) -> None:
        seen.append(f"{task.id} until {task.deadline.year}")

    async with serving(redis_url, handle):
        await eventually(lambda: len(seen) == 2)
    assert "far until 9999" in seen
