"""A task that one language has enqueued is refused to the other: by its unique lock, by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asynqpy import Client, DuplicateTaskError, Task, TaskIdConflictError
from tests.interop.go_program import EnqueueOptions, GoConflictError, GoDuplicateError, GoProgram

if TYPE_CHECKING:
    from redis.asyncio import Redis

# nil and empty payloads have different locks, though the wire cannot tell the messages apart.
PAYLOADS = pytest.mark.parametrize("payload", [None, b"", b"p", "é".encode()])


@PAYLOADS
async def test_go_refuses_the_duplicate_of_a_python_task(
    go: GoProgram, client: Client, payload: bytes | None
) -> None:
    await client.enqueue(Task("ok:1", payload), unique=60)

    with pytest.raises(GoDuplicateError):
        await go.enqueue("ok:1", **_unique(payload))
    await go.enqueue("ok:1", **_unique(b"another"))
    await go.enqueue("ok:1", **_unique(payload, "low"))


@PAYLOADS
async def test_python_refuses_the_duplicate_of_a_go_task(
    go: GoProgram, client: Client, payload: bytes | None
) -> None:
    await go.enqueue("ok:1", **_unique(payload))

    with pytest.raises(DuplicateTaskError):
        await client.enqueue(Task("ok:1", payload), unique=60)
    await client.enqueue(Task("ok:1", b"another"), unique=60)
    await client.enqueue(Task("ok:1", payload), unique=60, queue="low")


async def test_the_lock_of_a_delayed_task_outlasts_its_delay_in_both_languages(
    go: GoProgram, client: Client, redis: Redis
) -> None:
    python = await client.enqueue(Task("ok:python"), process_in=100, unique=10)
    of_go = await go.enqueue("ok:go", process_in=100, unique=10)

    for task_type, task_id in (("python", python.id), ("go", of_go.id)):
        lock = f"asynq:{{default}}:unique:ok:{task_type}:"
        assert await redis.get(lock) == task_id.encode()
        assert 100 < await redis.ttl(lock) <= 110
    with pytest.raises(GoDuplicateError):
        await go.enqueue("ok:python", unique=10)
    with pytest.raises(DuplicateTaskError):
        await client.enqueue(Task("ok:go"), unique=10)


@pytest.mark.parametrize("delay", [0, 60])
async def test_go_refuses_an_id_that_python_has_used(
    go: GoProgram, client: Client, delay: float
) -> None:
    await client.enqueue(Task("ok:1"), task_id="a")
    await client.enqueue(Task("ok:1"), task_id="later", process_in=60)

    with pytest.raises(GoConflictError):
        await go.enqueue("ok:2", id="a", process_in=delay)
    with pytest.raises(GoConflictError):
        await go.enqueue("ok:2", id="later", process_in=delay)
    await go.enqueue("ok:2", id="a", queue="low", process_in=delay)


async def test_python_refuses_an_id_that_go_has_used(go: GoProgram, client: Client) -> None:
    await go.enqueue("ok:1", id="a")
    await go.enqueue("ok:1", id="later", process_in=60)

    for task_id in ("a", "later"):
        with pytest.raises(TaskIdConflictError):
            await client.enqueue(Task("ok:2"), task_id=task_id)
        with pytest.raises(TaskIdConflictError):
            await client.enqueue(Task("ok:2"), task_id=task_id, process_in=60)


async def test_a_batch_says_which_of_its_tasks_go_had_already(
    go: GoProgram, client: Client
) -> None:
    await go.enqueue("ok:1", id="a", payload=b"p", unique=60)

    outcomes = await client.enqueue_many(
        [
            Task("ok:1", b"p", unique=60),
            Task("ok:1", b"q", unique=60, task_id="b"),
            Task("ok:1", b"r", task_id="a"),
        ]
    )

    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["DuplicateTaskError", "TaskInfo", "TaskIdConflictError"]
    assert {task.id for task in await go.tasks("pending")} == {"a", "b"}


def _unique(payload: bytes | None, queue: str = "default") -> EnqueueOptions:
    """A minute's lock; without a payload where that is None."""
    options = EnqueueOptions(unique=60, queue=queue)
    if payload is not None:
        options["payload"] = payload
    return options
