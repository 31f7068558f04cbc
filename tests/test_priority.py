from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynqpy.priority import Priority, StrictPriority, WeightedPriority

#: Examples may take their time: the machine has other work too.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

QUEUES = {"critical": 6, "default": 3, "low": 1}
FULL = dict.fromkeys(QUEUES, 10_000)

NAMES = ("critical", "default", "low", "mail")
weights = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 100), min_size=1)
permits = st.integers(0, 200)
backlogs = st.dictionaries(st.sampled_from((*NAMES, "unknown")), st.integers(0, 300))
kinds = st.sampled_from([StrictPriority, WeightedPriority])


def drawn(priority: Priority, rounds: list[int], backlog: dict[str, int]) -> Counter[str]:
    """What a priority gives away in all, while the backlog stays the same."""
    total: Counter[str] = Counter()
    for free in rounds:
        total.update(priority.draw(free, backlog))
    return total


@unhurried
@given(kinds, weights, st.lists(st.tuples(permits, backlogs), max_size=8))
def test_every_draw_names_each_queue_and_gives_away_exactly_the_permits(
    kind: type[Priority], queues: dict[str, int], rounds: list[tuple[int, dict[str, int]]]
) -> None:
    priority = kind(queues)
    for free, backlog in rounds:
        shares = priority.draw(free, backlog)
        assert shares.keys() == queues.keys()
        assert sum(shares.values()) == free
        assert min(shares.values()) >= 0


@unhurried
@given(kinds, weights, permits, backlogs)
def test_known_work_is_asked_for_before_permits_go_out_on_chance(
    kind: type[Priority], queues: dict[str, int], free: int, backlog: dict[str, int]
) -> None:
    shares = kind(queues).draw(free, backlog)
    known = {queue: backlog.get(queue, 0) for queue in queues}
    served = sum(min(shares[queue], known[queue]) for queue in queues)
    assert served == min(free, sum(known.values()))


@unhurried
@given(weights, st.lists(permits, max_size=30))
def test_backed_up_queues_share_in_proportion_to_within_one_round_of_turns(
    queues: dict[str, int], rounds: list[int]
) -> None:
    backlog = dict.fromkeys(queues, 10_000)
    total = drawn(WeightedPriority(queues), rounds, backlog)
    whole = sum(queues.values())
    for queue, weight in queues.items():
        fair = total.total() * weight / whole
        assert abs(total[queue] - fair) <= max(1, len(queues) * weight / whole) + 1e-6


@unhurried
@given(weights, st.lists(st.tuples(permits, backlogs), max_size=8))
def test_strict_queue_gets_known_work_only_when_those_above_have_theirs(
    queues: dict[str, int], rounds: list[tuple[int, dict[str, int]]]
) -> None:
    priority = StrictPriority(queues)
    for free, backlog in rounds:
        shares = priority.draw(free, backlog)
        for queue in (queue for queue in queues if shares[queue]):
            above = [other for other in queues if queues[other] > queues[queue]]
            assert all(shares[other] >= backlog.get(other, 0) for other in above)


@unhurried
@given(weights, st.lists(permits, max_size=30), st.floats(0, 2_000))
def test_in_a_long_lap_the_proportion_holds_to_within_a_lap(
    queues: dict[str, int], rounds: list[int], lap: float
) -> None:
    backlog = dict.fromkeys(queues, 10_000)
    priority = WeightedPriority(queues)
    total: Counter[str] = Counter()
    for free in rounds:
        total.update(priority.draw(free, backlog, lap=lap))
    whole = sum(queues.values())
    for queue, weight in queues.items():
        fair, turn = total.total() * weight / whole, max(1, lap * weight / whole)
        # A queue is ahead by what it was served in a row, and behind by what all the others were.
        assert abs(total[queue] - fair) <= max(turn, (len(queues) + lap) * weight / whole) + 1e-6


def test_a_long_lap_takes_few_queues_at_a_time_and_all_in_turn() -> None:
    queues = {f"q{n}": 1 for n in range(10)}
    priority, backlog = WeightedPriority(queues), dict.fromkeys(queues, 1_000)
    order: list[str] = []
    for _ in range(20):
        shares = priority.draw(25, backlog, lap=250)
        order += [queue for queue, share in shares.items() if share == 25]
    assert order == 2 * [*queues]


def test_a_lap_is_divided_by_weight() -> None:
    priority = WeightedPriority(QUEUES)
    assert priority.draw(100, FULL, lap=100) == {"critical": 60, "default": 30, "low": 10}
    assert priority.draw(90, FULL, lap=100) == {"critical": 60, "default": 30, "low": 0}


def test_shares_are_sixty_thirty_and_ten_percent() -> None:
    total = drawn(WeightedPriority(QUEUES), [10] * 100, FULL)
    assert total == {"critical": 600, "default": 300, "low": 100}


def test_shares_hold_when_permits_come_one_by_one() -> None:
    total = drawn(WeightedPriority(QUEUES), [1] * 1_000, FULL)
    assert total == {"critical": 600, "default": 300, "low": 100}


def test_first_draw_divides_by_weight_before_anything_is_known() -> None:
    assert WeightedPriority(QUEUES).draw(10, {}) == {"critical": 6, "default": 3, "low": 1}


def test_share_of_an_idle_queue_goes_to_the_others() -> None:
    total = drawn(WeightedPriority(QUEUES), [10] * 100, {"default": 10_000, "low": 10_000})
    assert total == {"critical": 0, "default": 750, "low": 250}


def test_queue_that_was_idle_makes_up_for_nothing() -> None:
    priority = WeightedPriority(QUEUES)
    drawn(priority, [10] * 100, {"default": 10_000, "low": 10_000})
    assert drawn(priority, [10] * 10, FULL) == {"critical": 60, "default": 30, "low": 10}


def test_chance_permits_are_not_held_against_a_queue() -> None:
    priority = WeightedPriority(QUEUES)
    drawn(priority, [100] * 100, {})
    assert drawn(priority, [10] * 10, FULL) == {"critical": 60, "default": 30, "low": 10}


def test_strict_priority_serves_the_highest_queue_alone_while_it_has_work() -> None:
    shares = StrictPriority(QUEUES).draw(10, FULL)
    assert shares == {"critical": 10, "default": 0, "low": 0}


def test_strict_priority_goes_down_as_far_as_permits_last() -> None:
    backlog = {"critical": 4, "default": 5, "low": 10_000}
    assert StrictPriority(QUEUES).draw(10, backlog) == {"critical": 4, "default": 5, "low": 1}


def test_strict_priority_is_about_weights_and_not_the_order_given() -> None:
    priority = StrictPriority({"low": 1, "critical": 6})
    assert priority.draw(3, {"low": 5, "critical": 5}) == {"critical": 3, "low": 0}


def test_strict_queues_of_equal_priority_keep_their_order() -> None:
    priority = StrictPriority({"b": 1, "a": 1})
    assert priority.draw(3, {"a": 5, "b": 2}) == {"b": 2, "a": 1}


def test_strict_priority_offers_idle_permits_to_the_highest_queue() -> None:
    assert StrictPriority(QUEUES).draw(10, {"low": 3}) == {"critical": 7, "default": 0, "low": 3}


@unhurried
@given(kinds, weights, permits, backlogs, st.sets(st.sampled_from(NAMES)))
def test_queues_known_to_be_empty_are_left_out_and_the_others_get_all_permits(
    kind: type[Priority], queues: dict[str, int], free: int, backlog: dict[str, int], some: set[str]
) -> None:
    shares = kind(queues).draw(free, backlog, some)
    assert shares.keys() == queues.keys() & some
    assert sum(shares.values()) == (free if shares else 0)
    assert all(share >= 0 for share in shares.values())


def test_queue_left_out_for_a_while_earns_no_burst() -> None:
    priority = WeightedPriority({"a": 1, "b": 1})
    for _ in range(100):
        priority.draw(1, {"a": 1000}, {"a"})
    assert drawn(priority, [1] * 10, {"a": 1000, "b": 1000}) == {"a": 5, "b": 5}


def test_highest_of_the_promising_queues_gets_what_is_left() -> None:
    priority = StrictPriority(QUEUES)
    assert priority.draw(10, {}, {"default", "low"}) == {"default": 10, "low": 0}
