from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from asynqpy.broker.arrivals import Arrivals
from asynqpy.priority import MOST_LOOKS, Priority, StrictPriority, WeightedPriority
from asynqpy.server.demand import Demand


class Promising:
    """Arrivals of which a test says which queues are promising."""

    def __init__(self, *queues: str) -> None:
        self.promising = set(queues)


def a_demand(priority: Priority, *promising: str) -> Demand:
    return Demand(priority, cast(Arrivals, Promising(*promising)))


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
        assert demand.draw(8) == {"high": 0, "low": 8}


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


def test_with_enough_waiting_only_some_of_many_queues_are_asked() -> None:
    names = [f"q{n}" for n in range(3 * MOST_LOOKS)]
    demand = a_demand(WeightedPriority(dict.fromkeys(names, 1)), *names)
    assert demand.draw(4).keys() == set(names)
    demand.learn(dict.fromkeys(names, 50))
    wanted = demand.draw(4)
    assert len(wanted) == 4 + MOST_LOOKS
    assert sum(wanted.values()) == 4
