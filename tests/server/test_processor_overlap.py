"""Under load two turns are under way: while Redis works on one, the handlers that the other brought run."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping

import pytest
from redis.asyncio import Redis

from asynqpy.broker.broker import Turn
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.task import ActiveTask
from tests.eventually import eventually
from tests.flaky_broker import FlakyBroker
from tests.redis_state import ask, counter, invariants, key, listed, messages, seed_pending, states
from tests.server.gate import Gate
from tests.server.parts import Workshop, a_workshop

#: The fewest permits that are worth two turns: eight tasks each.
CONCURRENCY = 16


class HeldTurns:
    """Holds the answers of a broker's turns back, on demand, once Redis has given them."""

    def __init__(self, broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wanted: list[Mapping[str, int]] = []
        self.under_way = self.most = self.answered = 0
        self._turn = broker.turn
        self._free = asyncio.Event()
        self._free.set()
        monkeypatch.setattr(broker, "turn", self)

    def hold(self) -> None:
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    async def __call__(
        self, settlements: object, wanted: Mapping[str, int], grants: object
    ) -> Turn:
        self.wanted.append(wanted)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            turn = await self._turn(settlements, wanted, grants)  # type: ignore[arg-type]
            self.answered += 1
            await self._free.wait()
            return turn
        finally:
            self.under_way -= 1


@pytest.fixture
def turns(broker: FlakyBroker, monkeypatch: pytest.MonkeyPatch) -> HeldTurns:
    return HeldTurns(broker, monkeypatch)


async def eight_ended(shop: Workshop, redis: Redis) -> None:
    """Of sixty tasks; their outcomes are still to be written."""
    await seed_pending(redis, *messages(60))
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))


async def two_under_way(shop: Workshop, turns: HeldTurns) -> None:
    """Eight tasks have ended; one turn that writes their outcomes is under way, and another. Redis has answered."""
    await shop.processor.tick()
    await eventually(lambda: not len(shop.runs))
    turns.hold()
    await shop.processor.tick()
    await shop.processor.tick()
    await eventually(lambda: turns.answered == len(turns.wanted))


@pytest.mark.parametrize("concurrency", [CONCURRENCY, CONCURRENCY + 1])
async def test_two_turns_are_under_way_and_never_more(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns, concurrency: int
) -> None:
    shop = a_workshop(broker, concurrency=concurrency)
    await seed_pending(redis, *messages(60))
    await two_under_way(shop, turns)
    assert await shop.processor.tick() == math.inf
    assert [sum(wanted.values()) for wanted in turns.wanted] == [8, 8, 8]
    turns.let_go()
    shop.processor.start()
    await eventually(lambda: _is_processed(redis, 60))
    await shop.processor.stop()
    assert turns.most == 2
    assert await invariants(redis) == []


async def _is_processed(redis: Redis, count: int) -> bool:
    return await counter(redis, "processed") == count


async def test_no_more_tasks_are_asked_for_than_permits_are_free(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    gate = Gate()
    shop = a_workshop(broker, gate, concurrency=CONCURRENCY)
    await seed_pending(redis, *messages(60))
    await shop.processor.tick()
    await eventually(lambda: gate.running == 8)
    turns.hold()
    await shop.processor.tick()  # the other eight permits are promised by now
    assert await shop.processor.tick() == math.inf
    assert [sum(wanted.values()) for wanted in turns.wanted] == [8, 8]
    turns.let_go()
    await eventually(lambda: gate.running == CONCURRENCY)
    assert len(await listed(redis, "active")) == CONCURRENCY
    shop.processor.start()
    gate.open()
    await eventually(lambda: _is_processed(redis, 60))
    await shop.processor.stop()
    assert gate.most == CONCURRENCY


async def test_a_few_tasks_are_not_worth_a_second_turn(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY)
    await seed_pending(redis, *messages(8 + 8 + 7))
    await two_under_way(shop, turns)
    assert turns.under_way == 1
    turns.let_go()
    shop.processor.start()
    await eventually(lambda: _is_processed(redis, 23))
    await shop.processor.stop()


async def test_few_permits_are_not_worth_a_second_turn(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY - 1)
    await seed_pending(redis, *messages(60))
    shop.processor.start()
    await eventually(lambda: _is_processed(redis, 60))
    await shop.processor.stop()
    assert turns.most == 1


async def test_the_end_of_a_turn_wakes_the_processor(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    """Nothing else would: its tasks may all have been somebody else's by the time it was run."""
    shop = a_workshop(broker, concurrency=CONCURRENCY, task_check_interval=3600)
    await seed_pending(redis, *messages(60))
    await two_under_way(shop, turns)
    await ask(redis, "DEL", key("default", "pending"))
    shop.processor.start()
    turns.let_go()
    await eventually(lambda: _is_processed(redis, 24))
    await shop.processor.stop()


async def test_queues_keep_their_shares(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    handled: Counter[str] = Counter()

    async def handler(task: ActiveTask) -> None:
        handled[task.queue] += 1

    shop = a_workshop(broker, handler, concurrency=CONCURRENCY, queues={"high": 3, "low": 1})
    for queue in ("high", "low"):
        await seed_pending(redis, *messages(300, prefix=f"{queue}-", queue=queue))
    shop.processor.start()
    await eventually(lambda: handled.total() >= 200)
    shares = handled.copy()
    await shop.processor.drain(60)
    await shop.processor.stop()
    assert turns.most == 2
    # What is known of the backlog may be one turn of eight old, and the first turn knew nothing.
    assert shares["high"] / shares.total() == pytest.approx(0.75, abs=0.06)


# Failures.


async def test_outcomes_and_tasks_of_turns_whose_answers_were_lost_come_back(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    handled: Counter[str] = Counter()

    async def handler(task: ActiveTask) -> None:
        handled[task.id] += 1

    shop = a_workshop(broker, handler, concurrency=CONCURRENCY)
    await eight_ended(shop, redis)
    broker.lose_answers()
    await shop.processor.tick()
    await shop.processor.tick()
    assert turns.most == 2
    await eventually(lambda: turns.under_way == 0)
    assert len(await listed(redis, "active")) == CONCURRENCY  # nobody knows of them
    broker.up()
    with pytest.raises(BrokerUnavailableError):
        await shop.processor.tick()
    shop.processor.start()
    await eventually(lambda: _is_processed(redis, 60))
    await shop.processor.stop()
    assert set(handled.values()) == {1}
    assert shop.runs.held() == {}
    assert shop.runs.granted() == []
    assert await invariants(redis) == []


async def test_turns_that_go_on_failing_are_tried_ever_more_slowly(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY)
    await eight_ended(shop, redis)
    failures = []

    async def fail(*args: object) -> Turn:
        failures.append(len(shop.processor._turns))
        raise BrokerError("no")

    monkeypatch.setattr(broker, "turn", fail)
    await shop.processor.tick()  # leaves a turn that fails
    await eventually(lambda: not shop.processor._turns)
    for _ in range(3):
        with pytest.raises(BrokerError):
            await shop.processor.tick()
    # One more beside the first, and then none that is not waited for.
    assert failures[1:] == [0] * (len(failures) - 1)


async def test_a_queue_that_could_not_be_asked_has_nothing_waiting_as_far_as_is_known(
    broker: FlakyBroker, redis: Redis
) -> None:
    shop = a_workshop(broker, concurrency=2, queues={"default": 1, "low": 1})
    for queue in ("default", "low"):
        await seed_pending(redis, *messages(20, queue=queue))
    await shop.processor.tick()
    await ask(redis, "DEL", key("low", "pending"))
    await ask(redis, "SET", key("low", "pending"), "junk")
    before = shop.processor._demand.waiting()
    await eventually(lambda: not len(shop.runs))
    await shop.processor.tick()
    assert shop.processor._demand.waiting() < before - 10
    await shop.processor.drain(60)


async def test_while_answers_are_under_way_their_leases_are_held(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY)
    await seed_pending(redis, *messages(60))
    await two_under_way(shop, turns)
    assert [grant.queue for grant in shop.runs.granted()] == ["default", "default"]
    assert len(shop.runs.held()) == 8  # ended, and not known to be written
    shop.processor.stop_fetching()
    turns.let_go()
    shop.processor.start()
    await shop.processor.stop()
    assert shop.runs.granted() == []


# The stop.


async def test_stop_waits_for_both_turns_and_hands_back_what_they_bring(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY)
    await seed_pending(redis, *messages(60))
    await two_under_way(shop, turns)
    shop.processor.start()
    shop.processor.stop_fetching()
    stopping = asyncio.create_task(shop.processor.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    turns.let_go()
    await stopping
    pending = await listed(redis, "pending")
    assert sorted(pending[:16]) == sorted(f"t{n}" for n in range(8, 24))
    assert pending[16:] == [f"t{n}" for n in range(24, 60)]
    assert await counter(redis, "processed") == 8
    assert await invariants(redis) == []


@pytest.mark.parametrize("patience", [0, 0.05])
async def test_stop_that_loses_patience_gives_up_both_turns_and_loses_nothing(
    broker: FlakyBroker, redis: Redis, turns: HeldTurns, patience: float
) -> None:
    shop = a_workshop(broker, concurrency=CONCURRENCY)
    await seed_pending(redis, *messages(60))
    await two_under_way(shop, turns)
    shop.processor.start()
    await asyncio.sleep(0)
    shop.processor.stop_fetching()
    # The last outcomes and what the turns took are offered once more, and are answered then.
    stopping = asyncio.create_task(shop.processor.stop(patience))
    await eventually(lambda: len(turns.wanted) > 3)
    turns.let_go()
    await stopping
    assert sorted(await listed(redis, "pending")) == sorted(f"t{n}" for n in range(8, 60))
    assert await states(redis, *(f"t{n}" for n in range(8))) == [""] * 8
    assert await counter(redis, "processed") == 8
    assert await listed(redis, "active") == []
    assert await invariants(redis) == []
