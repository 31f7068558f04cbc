"""Shipments that wait for replicas, and those that do not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from asynqpy import outbox
from asynqpy.broker.producing import Answered, NewTask
from asynqpy.client import Client
from asynqpy.errors import NotReplicatedError
from asynqpy.outbox import Answer, Outbox
from asynqpy.task import Task, TaskInfo
from asynqpy.unanswered import Unanswered
from tests.broker.factories import new_task
from tests.eventually import eventually
from tests.redis_state import ask, key
from tests.replicas import Replicas


class SlowReplicas:
    """Answers at once for tasks that wait for no replica, and for others when it is released."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.parts: list[int] = []
        self.released = asyncio.Event()

    async def __call__(
        self, tasks: list[NewTask], answered: Answered, parts: int
    ) -> Sequence[Answer]:
        self.sent.append([task.message.id for task in tasks])
        self.parts.append(parts)
        if any(task.min_replicas for task in tasks):
            await self.released.wait()
        return [None] * len(tasks)


@pytest.fixture
def slow() -> SlowReplicas:
    return SlowReplicas()


def put(box: Outbox, name: str, min_replicas: int) -> asyncio.Task[Answer]:
    task = new_task(name, token=name, min_replicas=min_replicas)
    return asyncio.create_task(box.put(task), name=name)


def carriers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "asynqpy:enqueue"]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_tasks_of_one_turn_leave_apart_by_how_many_replicas_they_wait_for(
    slow: SlowReplicas,
) -> None:
    box = Outbox(slow, Unanswered())
    calls = [put(box, f"{n}{name}", n) for name in "ab" for n in (0, 1, 2)]
    assert await asyncio.gather(*calls[::3]) == [None, None]
    assert slow.sent == [["0a", "0b"], ["1a", "1b"], ["2a", "2b"]]
    assert not any(call.done() for call in [*calls[1::3], *calls[2::3]])
    slow.released.set()
    assert await asyncio.gather(*calls) == [None] * 6


async def test_what_comes_while_many_wait_gathers_for_one_wait(slow: SlowReplicas) -> None:
    box = Outbox(slow, Unanswered())
    calls = []
    for number in range(outbox._MOST_WAITING + 5):
        calls.append(put(box, str(number), 1))
        await turns()
    assert slow.sent == [[str(n)] for n in range(outbox._MOST_WAITING)]
    assert await put(box, "plain", 0) is None
    slow.released.set()
    assert await asyncio.gather(*calls) == [None] * len(calls)
    assert slow.sent[-1] == [str(n) for n in range(outbox._MOST_WAITING, len(calls))]
    assert len(slow.sent) == outbox._MOST_WAITING + 2


async def test_caller_who_is_cancelled_while_his_task_gathers_takes_it_out(
    slow: SlowReplicas,
) -> None:
    unanswered = Unanswered()
    box = Outbox(slow, unanswered)
    calls = []
    for number in range(outbox._MOST_WAITING):
        calls.append(put(box, str(number), 1))
        await turns()
    late = [put(box, name, 1) for name in "ab"]
    await turns()
    late[0].cancel()
    await asyncio.wait(late[:1])
    assert len(unanswered) == 0
    slow.released.set()
    assert await asyncio.gather(*calls, late[1]) == [None] * (len(calls) + 1)
    assert slow.sent[-1] == ["b"]


async def test_last_caller_who_waits_for_replicas_ends_the_send_when_he_is_cancelled(
    slow: SlowReplicas,
) -> None:
    unanswered = Unanswered()
    box = Outbox(slow, unanswered)
    calls = [put(box, name, 1) for name in "ab"]
    await turns()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await turns()
    assert (carriers(), len(unanswered)) == ([], 2)


async def test_nobody_waits_for_a_gathering_shipment_that_somebody_cancelled(
    slow: SlowReplicas,
) -> None:
    """Whoever cancels all tasks of the loop but his own, say."""
    box = Outbox(slow, Unanswered())
    calls = []
    for number in range(outbox._MOST_WAITING + 1):
        calls.append(put(box, str(number), 1))
        await turns()
    for carrier in carriers():
        carrier.cancel()
    answers = await asyncio.gather(*calls)
    assert {str(answer) for answer in answers} == {"cancelled on the way to Redis"}
    slow.released.set()
    assert await put(box, "again", 1) is None


async def test_wait_for_replicas_keeps_no_large_turn_from_going_in_two_parts(
    slow: SlowReplicas,
) -> None:
    box = Outbox(slow, Unanswered())
    waiting = put(box, "waiting", 1)
    await turns()
    await asyncio.gather(*(put(box, str(n), 0) for n in range(40)))
    slow.released.set()
    assert await waiting is None
    assert slow.parts == [1, 2]


def test_outbox_that_held_tasks_back_serves_the_next_event_loop_too() -> None:
    box = Outbox(SlowReplicas(), Unanswered())

    async def overload() -> None:
        box._send = slow = SlowReplicas()
        calls = []
        for number in range(outbox._MOST_WAITING + 1):
            calls.append(put(box, str(number), 1))
            await turns()
        slow.released.set()
        assert await asyncio.gather(*calls) == [None] * len(calls)

    asyncio.run(overload())
    asyncio.run(overload())


# On real replicas.


async def test_calls_of_one_turn_share_a_wait(replicas: Replicas) -> None:
    async with Client(replicas.url, min_replicas=2) as client, replicas.client() as redis:
        await client.enqueue(Task("t"))
        await ask(redis, "CONFIG", "RESETSTAT")
        infos = await asyncio.gather(*(client.enqueue(Task("t", str(n))) for n in range(50)))
        statistics = await redis.info("commandstats")
    assert statistics["cmdstat_wait"]["calls"] == 1
    last = infos[-1].id.encode()
    assert replicas.ask_all("LINDEX", key("default", "pending"), "0") == [last] * 2


async def test_calls_that_wait_for_no_replica_are_not_held_up_by_those_that_do(
    replicas: Replicas,
) -> None:
    async with Client(replicas.url, replication_timeout=60) as client:
        with replicas.frozen():
            waiting = [
                asyncio.create_task(client.enqueue(Task("t", str(n)), min_replicas=1 + n % 2))
                for n in range(30)
            ]
            plain = await asyncio.gather(*(client.enqueue(Task("t", str(n))) for n in range(30)))
            assert all(isinstance(info, TaskInfo) for info in plain)
            assert not any(call.done() for call in waiting)
            replicas.thaw()
            await asyncio.gather(*waiting)


async def test_each_call_learns_of_its_own_task_that_it_was_not_replicated(
    replicas: Replicas,
) -> None:
    async with Client(replicas.url, replication_timeout=0.1) as client:
        with replicas.frozen():
            outcomes = await asyncio.gather(
                *(client.enqueue(Task("t"), task_id=name, min_replicas=1) for name in "ab"),
                return_exceptions=True,
            )
        errors = [it for it in outcomes if isinstance(it, NotReplicatedError)]
        assert [error.task_id for error in errors] == ["a", "b"]
        await eventually(lambda: replicas.ask_all("LLEN", key("default", "pending")) == [2, 2])
