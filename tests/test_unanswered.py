from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import unanswered
from asynqpy.broker.messages import TaskState
from asynqpy.broker.producing import NewTask
from asynqpy.client import Client
from asynqpy.errors import (
    BrokerFullError,
    BrokerUnavailableError,
    DuplicateTaskError,
    NotReplicatedError,
    TaskIdConflictError,
)
from asynqpy.task import Task
from asynqpy.unanswered import Unanswered
from tests.broker.factories import LOCK, new_task
from tests.flaky_broker import FlakyBroker
from tests.redis_state import listed

LOST = BrokerUnavailableError("the answer was lost")


def test_attempt_under_an_id_of_the_callers_goes_on_under_its_token() -> None:
    memory = Unanswered()
    memory.note(new_task("a", token="first"), LOST)
    assert memory.resume(new_task("a", token="second")) == new_task("a", token="first")


def test_attempt_under_a_lock_goes_on_under_its_id() -> None:
    memory = Unanswered()
    memory.note(new_task("made", lock=LOCK, token=""), LOST)
    assert memory.resume(new_task("made anew", lock=LOCK, token="")).message.id == "made"


@pytest.mark.parametrize(
    "other",
    [
        new_task("b", token="second"),
        new_task("a", queue="low", token="second"),
        new_task("a", payload=b"other", token="second"),
        new_task("a", token=""),
        new_task("a", lock=LOCK, token=""),
        new_task("a", state=TaskState.SCHEDULED, score=4_000_000_000, token="second"),
    ],
    ids=["id", "queue", "payload", "an id made for it", "lock", "delay"],
)
def test_another_task_goes_as_it_is(other: NewTask) -> None:
    memory = Unanswered()
    memory.note(new_task("a", token="first"), LOST)
    assert memory.resume(other) is other


@pytest.mark.parametrize("answer", [None, TaskIdConflictError(), DuplicateTaskError()])
def test_answer_ends_the_doubt(answer: Any) -> None:
    memory, task = Unanswered(), new_task("a", token="first")
    memory.note(task, LOST)
    memory.note(task, answer)
    assert len(memory) == 0
    again = new_task("a", token="second")
    assert memory.resume(again) is again


def test_task_that_too_few_replicas_have_may_be_repeated() -> None:
    memory = Unanswered()
    memory.note(new_task("a", token="first", min_replicas=1), NotReplicatedError())
    again = memory.resume(new_task("a", token="second", min_replicas=2))
    assert (again.token, again.min_replicas) == ("first", 2)


def test_refusal_leaves_the_doubt() -> None:
    memory, task = Unanswered(), new_task("a", token="first")
    memory.note(task, LOST)
    memory.note(task, BrokerFullError())
    assert memory.resume(new_task("a", token="third")).token == "first"


def test_repetition_that_was_refused_leaves_the_doubt_to_the_next() -> None:
    """A full Redis refuses a whole batch for the sake of another task in it, though this one is stored."""
    memory = Unanswered()
    memory.note(new_task("a", token="first"), LOST)
    again = memory.resume(new_task("a", token="second"))
    memory.note(again, BrokerFullError())
    assert memory.resume(new_task("a", token="third")).token == "first"


def test_each_lost_attempt_is_taken_up_once() -> None:
    """Of twins only one was stored: the other must learn that it is a duplicate."""
    memory = Unanswered()
    for task_id in ("made 1", "made 2"):
        memory.note(new_task(task_id, lock=LOCK, token=""), LOST)
    again = [memory.resume(new_task(f"anew {n}", lock=LOCK, token="")) for n in (1, 2)]
    assert [task.message.id for task in again] == ["made 1", "anew 2"]


def test_attempt_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have run and be kept as completed by then; who enqueues now means another."""
    monkeypatch.setattr(unanswered, "_REMEMBERED", -1.0)
    memory, again = Unanswered(), new_task("a", token="second")
    memory.note(new_task("a", token="first"), LOST)
    assert memory.resume(again) is again
    assert len(memory) == 0


def test_task_that_nothing_names_is_not_remembered() -> None:
    memory = Unanswered()
    memory.note(new_task("made", token=""), LOST)
    assert len(memory) == 0


def test_oldest_attempts_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unanswered, "_LIMIT", 2)
    memory = Unanswered()
    for task_id in "abac":
        memory.note(new_task(task_id, token="first"), LOST)
    tokens = [memory.resume(new_task(task_id, token="second")).token for task_id in "abc"]
    assert tokens == ["second", "first", "first"]


# Through the client.


@pytest.fixture
async def flaky(redis_url: str) -> AsyncIterator[tuple[Client, FlakyBroker]]:
    async with Client(redis_url) as client:
        broker = client._broker = FlakyBroker(redis_url)
        yield client, broker
        await broker.close()


@pytest.mark.parametrize("options", [{"task_id": "t1"}, {"unique": 60}], ids=["id", "unique"])
async def test_enqueue_whose_answer_was_lost_succeeds_when_it_is_repeated(
    flaky: tuple[Client, FlakyBroker], redis: Redis, options: Any
) -> None:
    """Go's client repeats it by itself, and takes its own success for a conflict or a duplicate (B10)."""
    client, broker = flaky
    await client.ping()
    await broker.keep_clock()
    broker.lose_answers()
    with pytest.raises(BrokerUnavailableError):
        await client.enqueue(Task("t", "x"), **options)
    broker.up()
    info = await client.enqueue(Task("t", "x"), **options)
    assert await listed(redis, "pending") == [info.id]
    with pytest.raises((TaskIdConflictError, DuplicateTaskError)):
        await client.enqueue(Task("t", "x"), **options)


async def test_enqueue_that_never_arrived_is_stored_when_it_is_repeated(
    flaky: tuple[Client, FlakyBroker], redis: Redis
) -> None:
    client, broker = flaky
    await broker.keep_clock()
    broker.down()
    outcomes = await client.enqueue_many([Task("t", "x"), Task("t", "y")], unique=60)
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailableError}
    broker.up()
    await client.enqueue_many([Task("t", "x"), Task("t", "y")], unique=60)
    assert len(await listed(redis, "pending")) == 2


async def test_enqueue_that_was_cut_short_succeeds_when_it_is_repeated(
    flaky: tuple[Client, FlakyBroker], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, broker = flaky
    await broker.keep_clock()
    enqueue = broker.enqueue

    async def enqueue_and_hang(tasks: list[NewTask], *args: object, **parts: object) -> Any:
        await enqueue(tasks)
        await asyncio.sleep(60)

    monkeypatch.setattr(broker, "enqueue", enqueue_and_hang)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.enqueue(Task("t"), task_id="t1")
    monkeypatch.setattr(broker, "enqueue", enqueue)
    await client.enqueue(Task("t"), task_id="t1")
    assert await listed(redis, "pending") == ["t1"]
