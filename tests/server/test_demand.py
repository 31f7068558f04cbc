from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from asynqpy.broker.arrivals import Arrivals
from asynqpy.priority import Priority, StrictPriority, WeightedPriority
from asynqpy.server.demand import LOOK_AGAIN, MOST_LOOKS, Demand, Pace


class Promising:
    """Arrivals of which a test says which queues are promising."""

    def __init__(self, *queues: str) -> None:
        self.promising = set(queues)


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def a_demand(priority: Priority, *promising: str, clock: Seconds | None = None) -> Demand:
    return Demand(priority, cast(Arrivals, Promising(*promising)), clock or Seconds())


@pytest.fixture
def demand() -> Iterator[Demand]:
    demand = a_demand(WeightedPriority({"high": 3, "low": 1}), "high", "low")
    yield demand
    assert demand.promised == 0


def test_permits_are_divided_by_weight_between_queues_that_have_enough(demand: Demand) -> None:
    demand.learn({"high": 100, "low": 100})
    assert demand.draw(8) == {"high": 6, "low": 2}


def test_what_is_on_its_way_no_longer_waits(demand: Demand) -> None:
    demand.learn({"high": 10, "low": 4})
    assert demand.waiting() == 14
    with demand.asking({"high": 8}):
        assert (demand.waiting(), demand.promised) == (6, 8)
        with demand.asking({"high": 2, "low": 4}):
            assert (demand.waiting(), demand.promised) == (0, 14)
    assert demand.waiting() == 14


def test_a_second_turn_asks_for_what_the_first_leaves(demand: Demand) -> None:
    demand.learn({"high": 6, "low": 100})
    with demand.asking(demand.draw(8)):
        assert demand.draw(8) == {"low": 8}


def test_more_may_be_asked_for_than_was_known_to_wait(demand: Demand) -> None:
    demand.learn({"high": 1})
    with demand.asking({"high": 5}):
        assert demand.waiting() == 0


def test_a_turn_that_fails_promises_nothing_any_more(demand: Demand) -> None:
    demand.learn({"high": 5})
    with pytest.raises(ValueError), demand.asking({"high": 5}):
        raise ValueError
    assert demand.waiting() == 5


def test_queues_known_to_be_empty_are_neither_asked_nor_counted() -> None:
    demand = a_demand(WeightedPriority({"high": 3, "low": 1}), "low")
    demand.learn({"high": 7})
    assert (demand.waiting(), demand.has_more) == (0, False)
    assert demand.draw(4) == {"low": 4}
    assert a_demand(WeightedPriority({"high": 3})).draw(4) == {}


def test_has_more_is_what_was_left_when_last_asked(demand: Demand) -> None:
    demand.learn({"high": 2})
    assert demand.has_more
    demand.learn({"high": 0})
    assert not demand.has_more


def test_nothing_is_known_to_wait_once_it_is_forgotten(demand: Demand) -> None:
    demand.learn({"high": 2})
    demand.forget()
    assert (demand.waiting(), demand.has_more) == (0, False)


def test_strictly_the_highest_queue_is_asked_until_all_of_it_is_on_its_way() -> None:
    demand = a_demand(StrictPriority({"high": 3, "low": 1}), "high", "low")
    demand.learn({"high": 5, "low": 5})
    with demand.asking(first := demand.draw(4)):
        assert {q: n for q, n in first.items() if n} == {"high": 4}
        second = demand.draw(4)
    assert {q: n for q, n in second.items() if n} == {"high": 1, "low": 3}


def ask(demand: Demand, free: int) -> dict[str, int]:
    with demand.asking(wanted := demand.draw(free)):
        return wanted


def test_with_enough_waiting_what_has_something_is_not_asked_for_nothing() -> None:
    names = ["a", "b", "c", "d"]
    demand = a_demand(WeightedPriority(dict.fromkeys(names, 1)), *names)
    assert demand.draw(2).keys() == set(names)
    demand.learn(dict.fromkeys(names, 50))
    assert demand.draw(2) == {"a": 1, "b": 1}


def test_with_enough_waiting_an_empty_queue_is_looked_at_now_and_then() -> None:
    clock = Seconds()
    demand = a_demand(WeightedPriority({"full": 1, "empty": 1}), "full", "empty", clock=clock)
    ask(demand, 2)
    demand.learn({"full": 50, "empty": 0})
    assert ask(demand, 2) == {"full": 2}
    clock.now += LOOK_AGAIN + 0.001
    assert ask(demand, 2) == {"full": 2, "empty": 0}
    assert ask(demand, 2) == {"full": 2}
    demand.learn({"empty": 1})
    assert ask(demand, 2) == {"full": 1, "empty": 1}


def test_of_very_many_empty_queues_some_are_looked_at_in_turn() -> None:
    clock = Seconds()
    names = [f"q{n}" for n in range(3 * MOST_LOOKS)]
    demand = a_demand(
        WeightedPriority(dict.fromkeys(("full", *names), 1)), "full", *names, clock=clock
    )
    ask(demand, 4)
    demand.learn({"full": 50} | dict.fromkeys(names, 0))
    looks = []
    for _ in range(3):
        clock.now += LOOK_AGAIN + 0.001
        looks.append({queue for queue, share in ask(demand, 4).items() if not share})
    assert [len(some) for some in looks] == 3 * [MOST_LOOKS]
    assert set.union(*looks) == set(names)
    clock.now += 3 * LOOK_AGAIN + 0.001
    assert ask(demand, 4).keys() == {"full", *names}


def test_a_fast_server_asks_few_queues_at_a_time() -> None:
    clock = Seconds()
    names = ["a", "b", "c", "d"]
    demand = a_demand(WeightedPriority(dict.fromkeys(names, 1)), *names, clock=clock)
    demand.learn(dict.fromkeys(names, 10_000))
    assert demand.draw(20) == dict.fromkeys(names, 5)
    demand.settled(1_000)
    clock.now += 0.1
    assert [demand.draw(20) for _ in names] == [{name: 20} for name in names]
    demand.learn({"d": 0})
    turn = demand.draw(21)
    assert {queue: turn[queue] for queue in "abc"} == dict.fromkeys("abc", 7)
    demand.learn({"d": 10_000})
    clock.now += 10  # in which nothing ended
    assert demand.draw(20) == dict.fromkeys(names, 5)


def test_the_pace_is_that_of_late() -> None:
    clock = Seconds()
    pace = Pace(clock)
    pace.add(50)
    assert pace.per_second() == 0
    clock.now += 0.1
    assert pace.per_second() == pytest.approx(500)
    clock.now += 0.05
    assert pace.per_second() == pytest.approx(500)
    clock.now += 0.95
    assert pace.per_second() == 0


def test_strictly_the_higher_queues_are_looked_at_each_turn() -> None:
    demand = a_demand(StrictPriority({"high": 3, "mid": 2, "low": 1}), "high", "mid", "low")
    ask(demand, 2)
    demand.learn({"high": 0, "mid": 50, "low": 0})
    assert ask(demand, 2) == {"high": 0, "mid": 2}
    assert ask(demand, 2) == {"high": 0, "mid": 2}
