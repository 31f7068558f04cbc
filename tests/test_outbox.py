from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy import outbox
from asynqpy.broker.broker import Broker
from asynqpy.broker.producing import Answered, NewTask
from asynqpy.client import Client
from asynqpy.errors import (
    AsynqError,
    BrokerError,
    BrokerUnavailableError,
    DuplicateTaskError,
    TaskIdConflictError,
)
from asynqpy.options import TaskOptions, merge
from asynqpy.outbox import Answer, Outbox, Send
from asynqpy.task import Task, TaskInfo
from asynqpy.unanswered import Unanswered
from tests import single
from tests.broker.factories import new_task
from tests.flaky_broker import FlakyBroker
from tests.lines import is_line
from tests.redis_process import RedisProcess
from tests.redis_proxy import RedisProxy
from tests.redis_state import ask, invariants, key, listed

Outcome = TaskInfo | BaseException


class HeldBroker(Broker):
    """On a real Redis. It counts round trips; while ``held``, a batch waits where Redis has stored it already."""

    def __init__(self, redis: str) -> None:
        super().__init__(redis)
        self.batches: list[list[str]] = []
        self.held = False
        self.stored, self.released = asyncio.Event(), asyncio.Event()

    async def enqueue(
        self, tasks: Sequence[NewTask], answered: Answered | None = None, *, parts: int = 1
    ) -> list[AsynqError | None]:
        self.batches.append([task.message.payload.decode() for task in tasks])
        told = None if self.held else answered
        answers = await super().enqueue(tasks, told, parts=parts)
        if self.held:
            self.stored.set()
            await self.released.wait()
        return answers


@pytest.fixture
async def sending(redis_url: str) -> AsyncIterator[tuple[Client, HeldBroker]]:
    async with Client(redis_url) as client:
        broker = client._broker = HeldBroker(redis_url)
        await broker.keep_clock()
        yield client, broker
        await broker.close()


async def together(*calls: Coroutine[Any, Any, TaskInfo]) -> list[Outcome]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


def kinds(outcomes: Sequence[object]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def others() -> set[asyncio.Task[Any]]:
    return {
        task
        for task in asyncio.all_tasks() - {asyncio.current_task()}
        if not is_line(task.get_name())
    }


async def script_calls(redis: Redis) -> int:
    statistics = await redis.info("commandstats")
    return sum(statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in SCRIPTS)


SCRIPTS = ("eval", "evalsha")


# What is shared.


@pytest.mark.parametrize(("count", "scripts"), [(31, 1), (50, 2)])
@single.COUNTED
async def test_calls_of_one_turn_are_one_round_trip_and_at_most_two_script_calls(
    sending: tuple[Client, HeldBroker], redis: Redis, count: int, scripts: int
) -> None:
    client, broker = sending
    await client.enqueue(Task("t", "first"))
    await ask(redis, "CONFIG", "RESETSTAT")
    outcomes = await together(*(client.enqueue(Task("t", str(n))) for n in range(count)))
    assert kinds(outcomes) == [TaskInfo] * count
    assert len(broker.batches) == 2
    assert await script_calls(redis) == scripts
    assert await invariants(redis) == []


async def test_each_call_gets_the_info_of_its_own_task(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, _ = sending
    outcomes = await together(*(client.enqueue(Task("t", str(n))) for n in range(50)))
    infos = [outcome for outcome in outcomes if isinstance(outcome, TaskInfo)]
    assert [info.payload for info in infos] == [b"%d" % n for n in range(50)]
    assert await listed(redis, "pending") == [info.id for info in infos]


async def test_tasks_of_one_turn_stand_in_the_order_of_the_calls(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, _ = sending
    names = [f"{number:03}" for number in range(100)]
    await together(*(client.enqueue(Task("t"), task_id=name) for name in names))
    assert await listed(redis, "pending") == names


async def test_queues_and_states_of_one_turn_share_the_round_trip(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    queues = ["a", "b", "c"]
    ways: list[TaskOptions] = [{}, {"process_in": 60}, {"group": "g1"}, {"unique": 60}]
    outcomes = await together(
        *(
            client.enqueue(Task("t", f"{n}{queue}"), **merge(way, {"queue": queue}))
            for n, way in enumerate(ways)
            for queue in queues
        )
    )
    assert kinds(outcomes) == [TaskInfo] * 12
    assert len(broker.batches) == 1
    assert [await invariants(redis, queue) for queue in queues] == [[], [], []]


@single.COUNTED
async def test_two_thousand_calls_are_a_script_call_per_five_hundred(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    asyncio.get_running_loop().set_debug(False)
    client, broker = sending
    await client.enqueue(Task("t", "first"))
    await ask(redis, "CONFIG", "RESETSTAT")
    outcomes = await together(*(client.enqueue(Task("t", str(n))) for n in range(2_000)))
    assert kinds(outcomes) == [TaskInfo] * 2_000
    assert (len(broker.batches), await script_calls(redis)) == (2, 4)
    assert len(await listed(redis, "pending")) == 2_001


async def test_calls_of_coroutines_in_step_stay_together(
    sending: tuple[Client, HeldBroker],
) -> None:
    client, broker = sending

    async def three(name: str) -> None:
        for number in range(3):
            await client.enqueue(Task("t", f"{name}{number}"))

    await asyncio.gather(*map(three, "abc"))
    assert broker.batches == [["a0", "b0", "c0"], ["a1", "b1", "c1"], ["a2", "b2", "c2"]]


async def test_calls_one_after_the_other_go_one_by_one(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    infos = [await client.enqueue(Task("t", str(n))) for n in range(3)]
    assert broker.batches == [["0"], ["1"], ["2"]]
    assert await listed(redis, "pending") == [info.id for info in infos]


async def test_bytes_beyond_the_limit_follow_in_order(
    sending: tuple[Client, HeldBroker], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_BYTES", 5)
    client, broker = sending
    payloads = ["aa", "bbb", "c", "longer than the limit", "d", "e"]
    outcomes = await together(*(client.enqueue(Task("t", p), task_id=p) for p in payloads))
    assert kinds(outcomes) == [TaskInfo] * 6
    assert broker.batches == [["aa", "bbb"], ["c"], ["longer than the limit"], ["d", "e"]]
    assert await listed(redis, "pending") == payloads


# What is not: errors.


async def test_refusal_of_one_call_is_none_of_the_others(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    await ask(redis, "SET", key("bad", "pending"), "no list")
    outcomes = await together(
        client.enqueue(Task("t", "1"), unique=60),
        client.enqueue(Task("t", "2"), queue="bad"),
        client.enqueue(Task("t", "1"), unique=60),
        client.enqueue(Task("t", "3"), task_id="mine"),
        client.enqueue(Task("t", "4"), task_id="mine"),
        client.enqueue(Task("t", "5"), queue="bad"),
        client.enqueue(Task("t", "6"), queue="low"),
    )
    assert kinds(outcomes) == [
        TaskInfo,
        BrokerError,
        DuplicateTaskError,
        TaskInfo,
        TaskIdConflictError,
        BrokerError,
        TaskInfo,
    ]
    assert len(broker.batches) == 1
    assert [len(await listed(redis, "pending", queue)) for queue in ("default", "low")] == [2, 1]


async def test_bad_option_of_one_call_is_none_of_the_others(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, _ = sending
    outcomes = await together(
        client.enqueue(Task("t")),
        client.enqueue(Task("t"), max_retry=-1),
        client.enqueue(Task("t")),
    )
    assert kinds(outcomes) == [TaskInfo, ValueError, TaskInfo]
    assert len(await listed(redis, "pending")) == 2


async def test_error_that_calls_share_is_a_copy_for_each(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, _ = sending
    await ask(redis, "SET", key("bad", "pending"), "no list")
    one, other = await together(*(client.enqueue(Task("t"), queue="bad") for _ in range(2)))
    assert isinstance(one, BrokerError)
    assert isinstance(other, BrokerError)
    assert one is not other
    assert (str(one), one.__cause__) == (str(other), other.__cause__)
    assert one.__traceback__ is not other.__traceback__


async def test_fault_in_sending_reaches_every_caller(redis_url: str) -> None:
    async def fail(tasks: list[NewTask], answered: Answered, parts: int) -> Sequence[Answer]:
        raise LookupError("a fault")

    box = Outbox(fail, Unanswered())
    answers = await asyncio.gather(*(box.put(new_task(name, token="")) for name in "ab"))
    assert list(map(str, answers)) == ["a fault", "a fault"]
    assert others() == set()


# Cancelled callers.


async def test_task_of_a_caller_cancelled_in_the_same_turn_is_not_sent(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    calls = [asyncio.create_task(client.enqueue(Task("t", name), task_id=name)) for name in "abc"]
    await asyncio.sleep(0)
    calls[1].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(outcomes) == [TaskInfo, asyncio.CancelledError, TaskInfo]
    assert broker.batches == [["a", "c"]]
    assert await listed(redis, "pending") == ["a", "c"]
    assert len(client._unanswered) == 0


async def test_nothing_is_sent_when_all_callers_are_cancelled_first(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    calls = [asyncio.create_task(client.enqueue(Task("t"), task_id=name)) for name in "ab"]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)
    assert (broker.batches, others(), len(client._unanswered)) == ([], set(), 0)
    await client.enqueue(Task("t"), task_id="a")
    assert await listed(redis, "pending") == ["a"]


async def test_task_of_a_caller_cancelled_on_the_way_goes_on_and_may_be_repeated(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    broker.held = True
    calls = [asyncio.create_task(client.enqueue(Task("t", name), task_id=name)) for name in "abc"]
    await broker.stored.wait()
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    broker.released.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(outcomes) == [asyncio.CancelledError, TaskInfo, TaskInfo]
    assert len(client._unanswered) == 1
    assert (await client.enqueue(Task("t", "a"), task_id="a")).id == "a"
    assert await listed(redis, "pending") == ["a", "b", "c"]
    with pytest.raises(TaskIdConflictError):
        await client.enqueue(Task("t", "b"), task_id="b")


async def test_last_caller_that_is_cancelled_takes_the_send_with_it(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    broker.held = True
    calls = [asyncio.create_task(client.enqueue(Task("t", name), unique=60)) for name in "ab"]
    await broker.stored.wait()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)
    assert others() == set()
    broker.held = False
    infos = [await client.enqueue(Task("t", name), unique=60) for name in "ab"]
    assert await listed(redis, "pending") == [info.id for info in infos]


async def test_doubt_outlives_a_repetition_that_was_not_sent(
    sending: tuple[Client, HeldBroker], redis: Redis
) -> None:
    client, broker = sending
    broker.held = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.enqueue(Task("t"), task_id="a")
    broker.held = False
    again = asyncio.create_task(client.enqueue(Task("t"), task_id="a"))
    await asyncio.sleep(0)
    again.cancel()
    await asyncio.wait([again])
    assert (await client.enqueue(Task("t"), task_id="a")).id == "a"
    assert await listed(redis, "pending") == ["a"]


@pytest.mark.parametrize("turns", [1, 3], ids=["before it left", "on its way"])
async def test_callers_do_not_wait_for_a_send_that_somebody_cancelled(
    sending: tuple[Client, HeldBroker], redis: Redis, turns: int
) -> None:
    """Whoever cancels all tasks of the loop but his own, say."""
    client, _ = sending
    calls = [asyncio.create_task(client.enqueue(Task("t"), task_id=name)) for name in "ab"]
    for _ in range(turns):
        await asyncio.sleep(0)
    (carrier,) = [task for task in others() if task.get_name() == "asynqpy:enqueue"]
    carrier.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(outcomes) == [BrokerUnavailableError] * 2
    assert len(client._unanswered) == (0 if turns == 1 else 2)
    infos = [await client.enqueue(Task("t"), task_id=name) for name in "ab"]
    assert await listed(redis, "pending") == [info.id for info in infos]


# A Redis that is away.


async def test_every_task_whose_answer_was_lost_may_be_repeated(
    redis_url: str, redis: Redis
) -> None:
    async with Client(redis_url) as client:
        broker = client._broker = FlakyBroker(redis_url)
        await broker.keep_clock()
        broker.lose_answers()
        outcomes = await together(*(client.enqueue(Task("t"), task_id=name) for name in "abc"))
        assert kinds(outcomes) == [BrokerUnavailableError] * 3
        assert len({id(outcome) for outcome in outcomes}) == 3
        broker.up()
        outcomes = await together(*(client.enqueue(Task("t"), task_id=name) for name in "abc"))
        assert kinds(outcomes) == [TaskInfo] * 3
        assert await listed(redis, "pending") == ["a", "b", "c"]
        await broker.close()


async def test_what_follows_a_lost_batch_of_the_same_turn_is_not_sent(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_BYTES", 2)
    async with Client(redis_url) as client:
        broker = client._broker = FlakyBroker(redis_url)
        await broker.keep_clock()
        broker.lose_answers()
        names = ["aa", "bb", "cc"]
        outcomes = await together(*(client.enqueue(Task("t", n), task_id=n) for n in names))
        assert kinds(outcomes) == [BrokerUnavailableError] * 3
        assert await listed(redis, "pending") == ["aa"]
        assert len(client._unanswered) == 1
        await broker.close()


# The end of the client, and other event loops.


async def test_calls_that_wait_when_the_client_is_closed_end_unsent(
    redis_url: str, redis: Redis
) -> None:
    client = Client(redis_url)
    await client.enqueue(Task("t"), task_id="first")
    calls = [asyncio.create_task(client.enqueue(Task("t"))) for _ in range(3)]
    await asyncio.sleep(0)
    await client.close()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert kinds(outcomes) == [BrokerError] * 3
    assert all("is closed" in str(outcome) for outcome in outcomes)
    assert await listed(redis, "pending") == ["first"]
    await asyncio.sleep(0)
    assert others() == set()


@single.PROXIED
async def test_calls_on_their_way_when_the_client_is_closed_end_at_once(
    redis_server: RedisProcess, redis: Redis
) -> None:
    async with RedisProxy.before(redis_server) as proxy:
        client = Client(proxy.url)
        await client.enqueue(Task("t"))
        proxy.swallows_replies = True
        calls = [asyncio.create_task(client.enqueue(Task("t"))) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        await client.close()
        async with asyncio.timeout(3):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {isinstance(outcome, BrokerError) for outcome in outcomes} == {True}
        assert not [task for task in others() if task.get_name() == "asynqpy:enqueue"]


def gathering(batches: list[int]) -> Send:
    async def send(tasks: list[NewTask], answered: Answered, parts: int) -> list[Answer]:
        batches.append(len(tasks))
        return [None] * len(tasks)

    return send


async def test_call_of_another_event_loop_joins_nobody() -> None:
    batches: list[int] = []
    box = Outbox(gathering(batches), Unanswered())
    ours = [asyncio.create_task(box.put(new_task(name, token=""))) for name in "ab"]
    await asyncio.sleep(0)
    other = threading.Thread(target=asyncio.run, args=[box.put(new_task("c", token=""))])
    other.start()
    other.join()
    assert batches == [1]
    assert await asyncio.gather(*ours) == [None, None]
    assert batches == [1, 2]


def test_outbox_serves_the_next_event_loop_once_the_first_is_closed() -> None:
    batches: list[int] = []
    box = Outbox(gathering(batches), Unanswered())

    async def two() -> None:
        await asyncio.gather(*(box.put(new_task(name, token="")) for name in "ab"))

    asyncio.run(two())
    asyncio.run(two())
    assert batches == [2, 2]
