"""Many producers, several queues, one worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from asynqpy import ActiveTask, Client, Task, TaskInfo
from tests.acceptance.serving import serving, without_debugging
from tests.eventually import eventually
from tests.redis_state import counter, invariants, listed

QUEUES = {"critical": 6, "default": 3, "low": 1}

PRODUCERS, ROUNDS, PER_ROUND = 50, 10, 40
TASKS = PRODUCERS * ROUNDS * PER_ROUND


@pytest.fixture(autouse=True)
async def _load() -> None:
    without_debugging()


async def produce(client: Client, producer: int) -> None:
    """One producer's tasks, spread over the queues; each payload is a number of its own."""
    names = list(QUEUES)
    for part in range(ROUNDS):
        first = (producer * ROUNDS + part) * PER_ROUND
        outcomes = await client.enqueue_many(
            Task("count", n, queue=names[n % len(names)]) for n in range(first, first + PER_ROUND)
        )
        assert all(isinstance(outcome, TaskInfo) for outcome in outcomes)


async def fill(client: Client, count: int) -> None:
    for queue in QUEUES:
        await client.enqueue_many([Task("count", queue) for _ in range(count)], queue=queue)


def until_one_is_empty(order: Sequence[str], count: int) -> Sequence[str]:
    """The queues served, in order, while each of them still had some of its tasks."""
    left = dict.fromkeys(QUEUES, count)
    for place, queue in enumerate(order):
        left[queue] -= 1
        if not left[queue]:
            return order[: place + 1]
    raise AssertionError("no queue was emptied")


async def test_twenty_thousand_tasks_of_fifty_producers_are_processed_once_each(
    redis_url: str, redis: Redis
) -> None:
    processed: Counter[int] = Counter()

    async def count(task: ActiveTask) -> None:
        processed[task.json(int)] += 1

    async with (
        Client(redis_url) as client,
        serving(redis_url, count, concurrency=100, queues=QUEUES),
    ):
        await asyncio.gather(*(produce(client, number) for number in range(PRODUCERS)))
        await eventually(lambda: processed.total() >= TASKS, within=60)
    assert processed == dict.fromkeys(range(TASKS), 1)
    assert sum([await counter(redis, "processed", queue) for queue in QUEUES]) == TASKS
    for queue in QUEUES:
        assert await listed(redis, "pending", queue) == []
        assert await invariants(redis, queue) == []


@pytest.mark.parametrize(("concurrency", "count"), [(1, 300), (10, 1_200), (100, 1_200)])
async def test_backed_up_queues_get_sixty_thirty_and_ten_percent(
    redis_url: str, concurrency: int, count: int
) -> None:
    order: list[str] = []

    async def note(task: ActiveTask) -> None:
        order.append(task.queue)

    async with Client(redis_url) as client:
        await fill(client, count)
    async with serving(redis_url, note, concurrency=concurrency, queues=QUEUES):
        await eventually(lambda: len(order) == 3 * count, within=60)
    served = Counter(until_one_is_empty(order, count))
    for queue, percent in {"critical": 60, "default": 30, "low": 10}.items():
        assert abs(100 * served[queue] / served.total() - percent) <= 2, served


async def test_strict_queues_are_emptied_one_after_another(redis_url: str) -> None:
    count, order = 100, list[str]()

    async def note(task: ActiveTask) -> None:
        order.append(task.queue)

    async with Client(redis_url) as client:
        await fill(client, count)
    async with serving(redis_url, note, concurrency=7, queues=QUEUES, strict_priority=True):
        await eventually(lambda: len(order) == 3 * count)
    assert order == [queue for queue in QUEUES for _ in range(count)]


async def test_task_of_a_higher_strict_queue_overtakes_the_backlog_below(redis_url: str) -> None:
    order: list[str] = []
    async with Client(redis_url) as client:

        async def note(task: ActiveTask) -> None:
            order.append(task.queue)
            if len(order) == 5:
                await client.enqueue(Task("count"), queue="critical")

        await client.enqueue_many([Task("count") for _ in range(50)], queue="low")
        async with serving(redis_url, note, concurrency=1, queues=QUEUES, strict_priority=True):
            await eventually(lambda: len(order) == 51)
    # What a server knows of the other queues is one round trip old.
    assert order.index("critical") in (5, 6)
