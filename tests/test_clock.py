from __future__ import annotations

import math
import re
import sys
import time

import pytest

from asynqpy import clock as clock_module
from asynqpy.clock import Clock, instant

STEADY = 7


class Host:
    """The clocks of a host: ``wall`` may jump, ``steady`` only runs on, ``monotonic`` stands still in its sleep."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.steady = 5_000.0
        self.awake = 900.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.awake

    def clock_gettime(self, clock: int) -> float:
        assert clock == STEADY
        return self.steady

    def passes(self, seconds: float) -> None:
        self.sleeps(seconds)
        self.awake += seconds

    def sleeps(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(clock_module, "time", host)
    monkeypatch.setattr(clock_module, "_STEADY_CLOCK", STEADY)
    return host


def test_clock_tells_the_time_of_its_host_until_it_is_anchored(host: Host) -> None:
    clock = Clock()
    host.passes(10)
    assert clock.now() == 1_700_000_010.0


def test_real_clock_agrees_with_wall_time() -> None:
    assert abs(Clock().now() - time.time()) < 1.0


def test_jump_of_the_host_clock_moves_nothing(host: Host) -> None:
    clock = Clock()
    host.wall += 86_400
    assert clock.now() == 1_700_000_000.0


def test_anchored_clock_follows_redis_and_runs_on(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=0.0)
    host.passes(1.5)
    assert clock.now() == 1_700_003_601.5


def test_clock_goes_on_while_its_host_sleeps(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=0.0)
    host.sleeps(3_600)
    assert clock.now() == 1_700_007_200.0
    assert clock.anchor_age() == 3_600


def test_host_without_such_a_clock_has_its_monotonic_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_STEADY_CLOCK", None)
    clock = Clock()
    host.passes(10)
    assert clock.now() == 1_700_000_010.0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other clocks")
def test_on_linux_it_is_the_clock_that_counts_from_the_boot() -> None:
    assert clock_module._STEADY_CLOCK == time.CLOCK_BOOTTIME


def test_time_of_redis_is_taken_to_be_half_a_round_trip_old(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=0.5)
    assert clock.now() == 1_700_003_600.25


def test_certain_is_only_the_time_that_redis_told(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=0.5)
    host.passes(1)
    assert clock.now() == 1_700_003_601.25
    assert clock.certainly() == 1_700_003_601.0


def test_slow_sample_is_better_than_none(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=10.0)
    assert clock.now() == 1_700_003_605.0


def test_slow_sample_does_not_replace_a_good_one(host: Host) -> None:
    clock = Clock()
    clock.anchor(1_700_003_600.0, round_trip=0.0)
    host.passes(60)
    clock.anchor(1_700_003_700.0, round_trip=10.0)
    assert clock.now() == 1_700_003_660.0
    assert clock.anchor_age() == 60


def test_clock_that_was_never_anchored_is_infinitely_out_of_date(host: Host) -> None:
    clock = Clock()
    assert clock.anchor_age() == math.inf
    clock.anchor(1_700_003_600.0, round_trip=0.0)
    host.passes(7)
    assert clock.anchor_age() == 7


def test_nanoseconds_have_the_nineteen_digits_that_go_writes(host: Host) -> None:
    host.wall += 0.5
    nanoseconds = Clock().now_ns()
    assert nanoseconds == 1_700_000_000_500_000_000
    assert re.fullmatch(r"\d{19}", str(nanoseconds))


def test_day_of_the_counters_is_that_of_utc(host: Host) -> None:
    host.wall = 1_700_006_399.0
    clock = Clock()
    assert clock.today() == "2023-11-14"
    host.passes(1)
    assert clock.today() == "2023-11-15"


@pytest.mark.parametrize(
    ("unix", "year"),
    [
        (0, 1970),
        (1_795_417_717.5, 2026),
        (-5e18, 1970),
        (float("-inf"), 1970),
        (1_795_417_717_000, 9999),
    ],
)
def test_instants_that_no_datetime_holds_become_the_end_of_the_range(
    unix: float, year: int
) -> None:
    assert instant(unix).year == year


def test_time_is_told_only_by_a_clock_that_was_anchored_lately(host: Host) -> None:
    clock = Clock()
    assert clock.now_if_anchored(60) is None
    clock.anchor(1_000_000.0, 0.0)
    host.passes(60)
    assert clock.now_if_anchored(60) == clock.now() == 1_000_060.0
    host.passes(1)
    assert clock.now_if_anchored(60) is None
