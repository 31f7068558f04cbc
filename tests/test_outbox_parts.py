"""Shipments in two parts, of which the first is answered first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker import exchange
from asynqpy.broker.exchange import Word
from asynqpy.broker.producing import Answered, NewTask
from asynqpy.broker.scripts import load
from asynqpy.client import Client
from asynqpy.errors import BrokerUnavailableError, TaskIdConflictError
from asynqpy.outbox import Answer, Outbox
from asynqpy.task import Task, TaskInfo
from asynqpy.unanswered import Unanswered
from tests import single
from tests.broker.factories import new_task
from tests.redis_state import ask, invariants, listed
from tests.topologies.common import CommonRedis


async def together(*calls: Coroutine[Any, Any, TaskInfo]) -> list[TaskInfo | BaseException]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


def kinds(outcomes: Sequence[object]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


class HalfAnswered:
    """Answers the first half of the tasks at once, and waits before the others."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.parts: list[int] = []
        self.error: Exception | None = None
        self.released = asyncio.Event()

    async def __call__(
        self, tasks: list[NewTask], answered: Answered, parts: int
    ) -> Sequence[Answer]:
        self.sent.append([task.message.id for task in tasks])
        self.parts.append(parts)
        half = range(len(tasks) // 2)
        answered(half, [None] * len(half))
        await self.released.wait()
        if self.error is not None:
            raise self.error
        return [None] * len(tasks)


@pytest.fixture
def half() -> HalfAnswered:
    return HalfAnswered()


def put_four(box: Outbox) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(box.put(new_task(name, token=name))) for name in "abcd"]


async def put_four_of_which_two_are_answered(
    half: HalfAnswered, unanswered: Unanswered
) -> list[asyncio.Task[Answer]]:
    calls = put_four(Outbox(half, unanswered))
    await asyncio.wait(calls[:2])
    return calls


async def test_callers_of_the_first_part_go_on_while_the_second_is_on_its_way(
    half: HalfAnswered,
) -> None:
    box = Outbox(half, Unanswered())
    calls = put_four(box)
    assert await asyncio.gather(*calls[:2]) == [None, None]
    further = [asyncio.create_task(box.put(new_task(name))) for name in "ef"]
    assert await further[0] is None
    assert half.sent == [["a", "b", "c", "d"], ["e", "f"]]
    assert not any(call.done() for call in calls[2:])
    half.released.set()
    assert await asyncio.gather(*calls[2:], further[1]) == [None, None, None]


async def test_connection_that_fails_after_the_first_part_is_no_matter_of_its_callers(
    half: HalfAnswered,
) -> None:
    unanswered = Unanswered()
    calls = await put_four_of_which_two_are_answered(half, unanswered)
    half.error = BrokerUnavailableError("away")
    half.released.set()
    assert await asyncio.gather(*calls) == [None, None, half.error, half.error]
    assert len(unanswered) == 2


async def test_last_caller_of_the_second_part_that_is_cancelled_ends_the_send(
    half: HalfAnswered,
) -> None:
    unanswered = Unanswered()
    calls = await put_four_of_which_two_are_answered(half, unanswered)
    calls[2].cancel()
    await asyncio.wait(calls[2:3])
    assert "asynqpy:enqueue" in {task.get_name() for task in others()}
    calls[3].cancel()
    await asyncio.wait(calls[3:])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert others() == set()
    assert [call.cancelled() for call in calls] == [False, False, True, True]
    assert len(unanswered) == 2


async def test_a_large_shipment_goes_in_two_parts_unless_another_is_on_its_way(
    half: HalfAnswered,
) -> None:
    box = Outbox(half, Unanswered())

    def put(count: int) -> list[asyncio.Task[Answer]]:
        return [asyncio.create_task(box.put(new_task(f"{count}-{n}"))) for n in range(count)]

    calls = put(32)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    calls += put(33)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    half.released.set()
    await asyncio.gather(*calls)
    await asyncio.gather(*put(31), *others())
    await asyncio.gather(*put(34), *others())
    assert [len(ids) for ids in half.sent] == [32, 33, 31, 34]
    assert half.parts == [2, 1, 1, 2]


async def test_list_whose_second_half_got_no_answer_knows_of_its_first(half: HalfAnswered) -> None:
    unanswered = Unanswered()
    half.error = BrokerUnavailableError("away")
    half.released.set()
    tasks = [new_task(name, token=name) for name in "abcd"]
    answers = await Outbox(half, unanswered).put_all(tasks)
    assert answers == [None, None, half.error, half.error]
    assert len(unanswered) == 2


@single.ONE_CONNECTION
async def test_what_was_answered_before_the_connection_died_is_stored_and_the_rest_may_be_repeated(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02}" for number in range(40)]
    read = exchange._Channel._read
    enqueued: list[Word] = []

    def cut_before_the_second(self: exchange._Channel, name: Word, reply: object) -> Any:
        reply = read(self, name, reply)
        if str(name).startswith("EVAL"):
            enqueued.append(name)
        if len(enqueued) == 2:
            raise RedisConnectionError("cut")
        return reply

    async with Client(redis_url) as client:
        await client.enqueue(Task("t"), queue="warm")
        monkeypatch.setattr(exchange._Channel, "_read", cut_before_the_second)
        outcomes = await together(*(client.enqueue(Task("t"), task_id=name) for name in names))
        assert kinds(outcomes) == [TaskInfo] * 20 + [BrokerUnavailableError] * 20
        assert enqueued == ["EVAL", "EVALSHA"]
        monkeypatch.undo()
        assert await listed(redis, "pending") == names
        again = await together(*(client.enqueue(Task("t"), task_id=name) for name in names))
        assert kinds(again) == [TaskIdConflictError] * 20 + [TaskInfo] * 20
        assert await listed(redis, "pending") == names


async def test_order_and_list_of_queues_hold_where_redis_has_forgotten_the_script(
    redis_url: str, redis: Redis
) -> None:
    names = [f"{number:02}" for number in range(40)]
    async with Client(redis_url) as client:
        await client.enqueue(Task("t"))
        await ask(redis, "FLUSHALL")
        await ask(redis, "SCRIPT", "FLUSH")
        await together(*(client.enqueue(Task("t"), task_id=name) for name in names))
    assert await listed(redis, "pending") == names
    assert await invariants(redis) == []


async def test_second_part_cannot_overtake_the_first_while_others_load_the_script(
    redis_server: CommonRedis, redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do when Redis has come back, between the two."""
    names = [f"{number:02}" for number in range(40)]
    writes = exchange._Channel._writes

    def slow(channel: exchange._Channel) -> Iterator[bytes]:
        for packed in writes(channel):
            yield packed
            # The second is answered after all that came before the first.
            assert (redis_server.ask("PING"), redis_server.ask("PING")) == (True, True)
            redis_server.ask("SCRIPT LOAD", load("enqueue").text)

    async with Client(redis_url) as client:
        await client.enqueue(Task("t"), queue="warm")
        await ask(redis, "SCRIPT", "FLUSH")
        monkeypatch.setattr(exchange._Channel, "_writes", slow)
        outcomes = await together(*(client.enqueue(Task("t"), task_id=name) for name in names))
        assert kinds(outcomes) == [TaskInfo] * 40
    assert await listed(redis, "pending") == names
