"""Searches as wholes: long lists, many queues, every shape of Redis, and what is asked of Redis on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import Client, Task
from asynqpy.broker.broker import Broker
from asynqpy.broker.findings import Finding, Problem
from asynqpy.broker.healer import Steps
from asynqpy.broker.scripts import command, nothing
from tests import single
from tests.broker.conftest import Deployment
from tests.damage import active_task_without_a_lease, pending_task_in_no_list, soon
from tests.fake_clock import FakeClock
from tests.redis_process import RedisProcess
from tests.redis_state import (
    ask,
    invariants,
    key,
    listed,
    message,
    seed_active,
    seed_aggregating,
    seed_many,
    seed_pending,
    seed_retry,
    states,
    task_key,
)


async def all_of(steps: Steps) -> list[Finding]:
    return [finding async for step in steps for finding in step.findings]


async def heal(broker: Broker, **options: Any) -> Counter[Problem]:
    findings = await all_of(broker.reconciliation(heal=True, **options).search())
    assert all(finding.is_healed for finding in findings)
    return Counter(finding.problem for finding in findings)


async def test_damage_on_every_page_of_long_lists_is_found(broker: Broker, redis: Redis) -> None:
    await seed_many(redis, "pending", {f"p{n}": 0 for n in range(2_000)})
    await seed_many(redis, "archived", {f"x{n}": n for n in range(2_000)})
    await seed_many(redis, "active", {f"a{n}": soon() for n in range(1_200)})
    for n in range(0, 2_000, 10):
        await ask(redis, "DEL", task_key("default", f"p{n}"), task_key("default", f"x{n}"))
    for n in range(0, 1_200, 10):
        await ask(redis, "ZREM", key("default", "lease"), f"a{n}")
    found = await heal(broker)
    assert found == {Problem.NO_RECORD: 400, Problem.NO_LEASE: 120}
    assert await invariants(redis) == []


async def test_second_copy_on_another_page_of_pending_is_found(
    broker: Broker, redis: Redis
) -> None:
    await seed_many(redis, "pending", {f"p{n}": 0 for n in range(1_500)})
    await ask(redis, "LPUSH", key("default", "pending"), "p3", "p700")
    assert await heal(broker) == {Problem.LISTED_TWICE: 2}
    assert (await listed(redis, "pending"))[:5] == ["p0", "p1", "p2", "p3", "p4"]


async def test_many_tasks_in_no_list_go_back_to_pending(broker: Broker, redis: Redis) -> None:
    await seed_many(redis, "retry", {f"r{n}": 1 for n in range(1_500)})
    await ask(redis, "DEL", key("default", "retry"))
    assert await heal(broker) == {Problem.ORPHAN: 1_500}
    assert await invariants(redis) == []


async def test_task_that_became_pending_during_the_search_is_none_that_is_in_no_list(
    broker: Broker, redis: Redis, redis_url: str, clock: FakeClock
) -> None:
    """The list was read before it came."""
    await seed_pending(redis, message("p"))
    search = broker.reconciliation(heal=True).search()
    is_enqueued = False
    async with Client(redis_url) as client:
        async for step in search:
            assert not step.findings
            if not is_enqueued:
                clock.advance(1)
                await client.enqueue(Task("t"), task_id="late")
                is_enqueued = True
    assert await states(redis, "late") == ["pending"]


async def test_queues_that_are_not_asked_for_are_left_alone(broker: Broker, redis: Redis) -> None:
    await active_task_without_a_lease(redis)
    await seed_active(redis, message("bad", queue="low"), lease=1)
    await ask(redis, "DEL", key("low", "lease"))
    search = broker.reconciliation(heal=True)
    findings = await all_of(search.search(["low"]))
    assert [(finding.queue, finding.problem) for finding in findings] == [("low", Problem.NO_LEASE)]
    assert search.queues == ["low"]
    assert await invariants(redis, "low") == []
    assert await invariants(redis) != []
    assert await all_of(broker.reconciliation(heal=True).search([])) == []


async def test_name_of_a_queue_is_no_pattern(broker: Broker, redis: Redis) -> None:
    for queue in ("q*", "qx"):
        await seed_active(redis, message("bad", queue=queue), lease=1)
        await ask(redis, "DEL", key(queue, "lease"))
    await all_of(broker.reconciliation(heal=True).search(["q*"]))
    assert await states(redis, "bad", queue="q*") == ["pending"]
    assert await states(redis, "bad", queue="qx") == ["active"]


async def test_queue_that_was_removed_but_for_its_counters_stays_removed(
    broker: Broker, redis: Redis
) -> None:
    await ask(redis, "SET", key("default", "processed"), 7)
    await ask(redis, "SET", key("default", "paused"), 7)
    assert await heal(broker) == {}
    assert not await ask(redis, "EXISTS", "asynq:queues")


async def test_keys_of_others_are_none_of_ours(broker: Broker, redis: Redis) -> None:
    for name in (
        b"asynq:{}:t:x",
        b"asynq:{\xff}:pending",
        b"asynq:{open",
        b"asynq:servers:{h:1:u}",
    ):
        await ask(redis, "SET", name, "x")
    assert await heal(broker) == {}


async def test_groups_that_have_one_task_together_are_found_without_its_help(
    broker: Broker, redis: Redis
) -> None:
    await seed_aggregating(redis, message("bad", group_key="one"), at=1)
    await ask(redis, "HDEL", task_key("default", "bad"), "group")
    await ask(redis, "ZADD", key("default", "g:two"), 1, "bad")
    await ask(redis, "SADD", key("default", "groups"), "two")
    assert await heal(broker) == {Problem.LISTED_TWICE: 1}
    assert await invariants(redis) == []


async def test_messages_are_read_only_where_that_is_asked_for(broker: Broker, redis: Redis) -> None:
    await seed_pending(redis, message("bad"))
    await ask(redis, "HSET", task_key("default", "bad"), "msg", b"\xff")
    assert await heal(broker) == {}
    assert await heal(broker, decode=True) == {Problem.UNREADABLE: 1}


async def test_messages_of_many_megabytes_are_fetched_a_few_at_a_time(
    broker: Broker, redis: Redis
) -> None:
    await seed_pending(redis, *[message(f"p{n}", payload=b"x" * 3_000_000) for n in range(5)])
    await ask(redis, "HSET", task_key("default", "p4"), "msg", b"\xff" * 5_000_000)
    assert await heal(broker, decode=True) == {Problem.UNREADABLE: 1}


async def test_steps_tell_how_far_the_search_is(broker: Broker, redis: Redis) -> None:
    await seed_many(redis, "pending", {f"p{n}": 0 for n in range(1_200)})
    search = broker.reconciliation(heal=False)
    done = sum([step.done async for step in search.search()])
    assert search.tasks == 1_200
    assert 0.5 * search.total < done < 3 * search.total


@single.COUNTED
async def test_busy_redis_is_asked_little_at_a_time(
    broker: Broker, redis: Redis, redis_server: RedisProcess
) -> None:
    """Nothing is read as a whole, and nothing takes as long as that would."""
    await seed_many(redis, "pending", {f"p{n}": 0 for n in range(20_000)})
    for n in range(0, 20_000, 200):
        await ask(redis, "DEL", task_key("default", f"p{n}"))
    redis_server.ask("CONFIG", "SET", "slowlog-log-slower-than", "250000")
    redis_server.ask("SLOWLOG", "RESET")
    redis_server.ask("CONFIG", "RESETSTAT")
    assert await heal(broker, decode=True) == {Problem.NO_RECORD: 100}
    assert redis_server.ask("SLOWLOG", "LEN") == 0
    used = {name.removeprefix("cmdstat_") for name in redis_server.ask("INFO", "commandstats")}
    assert used.isdisjoint({"keys", "smembers", "hgetall", "zrangebyscore"})


@pytest.fixture
async def broker_of(deployment: Deployment, clock: FakeClock) -> AsyncIterator[Broker]:
    broker = Broker(deployment.url, clock)
    yield broker
    await broker.close()


async def test_damage_is_found_in_every_shape_of_redis(
    broker_of: Broker, deployment: Deployment, clock: FakeClock
) -> None:
    queues = ["critical", "default", "low"]
    async with Client(deployment.url) as client:
        for queue in queues:
            await client.enqueue(Task("t", unique=60), task_id="t", queue=queue)
            await client.enqueue(Task("t"), task_id="g", queue=queue, group="g")
    clock.advance(60)
    runner = broker_of._runner
    for queue in queues:
        for words in (
            ("DEL", key(queue, "pending")),
            ("DEL", key(queue, "groups")),
            ("SET", key(queue, "unique:leaked:"), "nobody"),
        ):
            await runner.run(command(*words, read=nothing))
    await runner.run(command("DEL", "asynq:queues", read=nothing))
    found = await heal(broker_of, decode=True)
    assert found == {
        Problem.ORPHAN: 3,
        Problem.UNINDEXED_GROUP: 3,
        Problem.LEAKED_LOCK: 3,
        Problem.UNREGISTERED: 3,
    }
    assert await heal(broker_of, decode=True) == {}


@single.COUNTED
async def test_glance_asks_redis_little(broker: Broker, redis: Redis) -> None:
    await seed_many(redis, "pending", {f"p{n}": 0 for n in range(3_000)})
    await seed_retry(redis, message("r"), at=1)
    await pending_task_in_no_list(redis)
    await redis.config_resetstat()
    assert await all_of(broker.reconciliation(heal=True).glance(["default"])) == []
    stats = await redis.info("commandstats")
    assert "cmdstat_scan" not in stats
    assert sum(stat["calls"] for stat in stats.values()) < 40
