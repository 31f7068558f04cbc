"""``min_replicas``, as a user of the client sees it."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import (
    BrokerError,
    Client,
    DuplicateTaskError,
    NotReplicatedError,
    Task,
    TaskIdConflictError,
    TaskInfo,
)
from tests import single
from tests.redis_state import listed
from tests.replicas import Replicas


@pytest.mark.parametrize(
    ("of_client", "of_task", "of_call", "waits"),
    [
        (0, {}, {}, False),
        (1, {}, {}, True),
        (0, {"min_replicas": 1}, {}, True),
        (0, {}, {"min_replicas": 1}, True),
        (0, {"min_replicas": 1}, {"min_replicas": 0}, False),
        (1, {"min_replicas": 0}, {}, False),
        (1, {}, {"min_replicas": 0}, False),
        (1, {"min_replicas": None}, {"min_replicas": None}, True),
        (0, {"min_replicas": 1}, {"min_replicas": None, "queue": "low"}, True),
        (1, {"queue": "low"}, {"max_retry": 1}, True),
    ],
)
async def test_that_of_the_call_counts_before_that_of_the_task_and_that_of_the_client(
    replicas: Replicas, of_client: int, of_task: Any, of_call: Any, waits: bool
) -> None:
    task = Task("t", **of_task)
    async with Client(replicas.url, min_replicas=of_client, replication_timeout=0.02) as client:
        with replicas.frozen():
            (outcome,) = await client.enqueue_many([task], **of_call)
            assert isinstance(outcome, NotReplicatedError if waits else TaskInfo)
            if waits:
                with pytest.raises(NotReplicatedError):
                    await client.enqueue(task, **of_call)
            else:
                await client.enqueue(task, **of_call)


@pytest.mark.parametrize(
    "options",
    [{}, {"process_in": 60}, {"group": "g"}, {"unique": 60}, {"task_id": "a"}, {"queue": "low"}],
    ids=lambda options: next(iter(options), "plain"),
)
async def test_task_of_every_kind_waits(replicas: Replicas, options: Any) -> None:
    async with Client(replicas.url, min_replicas=2, replication_timeout=0.05) as client:
        info = await client.enqueue(Task("t", "1"), **options)
        stored = f"asynq:{{{info.queue}}}:t:{info.id}"
        assert replicas.ask_all("EXISTS", stored) == [1, 1]
        with replicas.frozen(1), pytest.raises(NotReplicatedError) as caught:
            await client.enqueue(Task("t", "2"), **options | {"task_id": "b"})
    assert (caught.value.task_id, caught.value.queue) == ("b", info.queue)
    assert (caught.value.wanted, caught.value.confirmed) == (2, 1)


@pytest.mark.parametrize("options", [{"task_id": "a"}, {"unique": 60}], ids=["id", "unique"])
async def test_repetition_succeeds_once_the_replicas_have_caught_up(
    replicas: Replicas, options: Any
) -> None:
    async with Client(replicas.url, min_replicas=1, replication_timeout=0.05) as client:
        with replicas.frozen():
            with pytest.raises(NotReplicatedError) as first:
                await client.enqueue(Task("t"), **options)
            with pytest.raises(NotReplicatedError) as second:
                await client.enqueue(Task("t"), **options)
        info = await client.enqueue(Task("t"), **options)
        assert info.id == first.value.task_id == second.value.task_id
        with pytest.raises((TaskIdConflictError, DuplicateTaskError)):
            await client.enqueue(Task("t"), **options)
    async with replicas.client() as redis:
        assert await listed(redis, "pending") == [info.id]
    assert replicas.ask_all("LLEN", "asynq:{default}:pending") == [1, 1]


async def test_repetition_that_waits_for_no_replica_takes_the_task_as_it_is(
    replicas: Replicas,
) -> None:
    async with Client(replicas.url, replication_timeout=0.05) as client:
        with replicas.frozen():
            with pytest.raises(NotReplicatedError):
                await client.enqueue(Task("t"), task_id="a", min_replicas=1)
            assert (await client.enqueue(Task("t"), task_id="a")).id == "a"


async def test_list_answers_for_each_task_what_became_of_it(replicas: Replicas) -> None:
    tasks = [
        Task("t", "1"),
        Task("t", "2", min_replicas=1),
        Task("t", "3", min_replicas=2),
        Task("t", "3", unique=60, min_replicas=1),
        Task("t", "3", unique=60, min_replicas=1),
    ]
    async with Client(replicas.url, replication_timeout=0.05) as client:
        with replicas.frozen(1):
            outcomes = await client.enqueue_many(tasks)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [TaskInfo, TaskInfo, NotReplicatedError, TaskInfo, DuplicateTaskError]


@single.WITHOUT_REPLICAS
@pytest.mark.single_redis("others have replicas")
async def test_error_is_one_of_redis_and_survives_a_pickle(redis_url: str) -> None:
    async with Client(redis_url, replication_timeout=timedelta(milliseconds=1)) as client:
        with pytest.raises(BrokerError) as caught:
            await client.enqueue(Task("t"), task_id="a", queue="low", min_replicas=3)
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, NotReplicatedError)
    assert (error.task_id, error.queue, error.wanted, error.confirmed) == ("a", "low", 3, 0)
    assert str(error) == (
        "task a of queue 'low' is stored, but 0 of 3 replicas confirmed it within 0.001 s"
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"min_replicas": -1}, ValueError, "min_replicas must be between 0 and"),
        ({"min_replicas": 2**31}, ValueError, "min_replicas must be between 0 and"),
        ({"min_replicas": True}, TypeError, "min_replicas must be an int, not bool"),
        ({"min_replicas": 1.0}, TypeError, "min_replicas must be an int, not float"),
        ({"min_replicas": "1"}, TypeError, "min_replicas must be an int, not str"),
    ],
)
async def test_bad_number_is_refused_before_anything_is_sent(
    redis_url: str, redis: Redis, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Client(redis_url, **options)
    with pytest.raises(error, match=text):
        Task("t", **options)
    async with Client(redis_url) as client:
        with pytest.raises(error, match=text):
            await client.enqueue(Task("t"), **options)
        with pytest.raises(error, match=text):
            await client.enqueue_many([Task("t")], **options)
    assert await listed(redis, "pending") == []


@pytest.mark.parametrize(
    ("timeout", "error", "text"),
    [
        (0, ValueError, "replication_timeout must be longer than 0"),
        (-1, ValueError, "replication_timeout must be between 0 and 100 years"),
        (True, TypeError, "replication_timeout must be a timedelta or seconds, not bool"),
        (None, TypeError, "replication_timeout must be a timedelta or seconds, not NoneType"),
    ],
)
def test_bad_timeout_is_refused(timeout: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Client("redis://localhost", replication_timeout=timeout)
