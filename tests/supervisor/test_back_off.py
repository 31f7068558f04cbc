from __future__ import annotations

import pytest

from asynqpy.supervisor.back_off import BackOff, delay


def delays(*lives: float, chance: float = 0.5) -> list[float]:
    back_off = BackOff(chance=lambda: chance)
    return [back_off.after(lived) for lived in lives]


def test_first_restart_comes_at_once_and_delays_double_up_to_half_a_minute() -> None:
    assert delays(*[0.5] * 9) == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_process_that_lived_for_a_minute_is_forgiven_what_was_before() -> None:
    assert delays(1, 1, 1, 60, 1, 1) == [0, 1, 2, 0, 1, 2]


def test_process_that_lived_for_less_is_not() -> None:
    assert delays(1, 1, 59.9, 1) == [0, 1, 2, 4]


@pytest.mark.parametrize(("chance", "shares"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_delays_differ_by_a_quarter(chance: float, shares: float) -> None:
    assert delays(1, 1, 1, 1, chance=chance) == [0, shares, 2 * shares, 4 * shares]


def test_delay_has_no_end_of_failures() -> None:
    assert delay(100_000) == 30


def test_two_places_do_not_wait_alike() -> None:
    places = [BackOff() for _ in range(20)]
    assert {place.after(1) for place in places} == {0}
    assert len({place.after(1) for place in places}) > 1
