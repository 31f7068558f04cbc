from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.harness import rounds
from benchmarks.harness.processes import ContenderError, NoSuchMode
from benchmarks.harness.records import Column, Measure, Row, Sample
from benchmarks.harness.rounds import Plan, play


class Sampler:
    """Takes samples, and notes in which order."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def taking(self, label: str) -> Callable[[], Sample]:
        def take() -> Sample:
            self.taken.append(label)
            return {"rate": float(len(self.taken))}

        return take

    def failing(self, label: str, error: Exception) -> Callable[[], Sample]:
        def take() -> Sample:
            self.taken.append(label)
            raise error

        return take


class Clock:
    """Goes on by so many seconds each time that somebody looks at it."""

    def __init__(self, step: float) -> None:
        self._now = 0.0
        self._step = step

    def monotonic(self) -> float:
        self._now += self._step
        return self._now


def planned(**takes: Callable[[], Sample]) -> Plan:
    plan = Plan(Measure("m", "M", [Column("rate", "tasks/s")], []))
    for label, take in takes.items():
        plan.add(Row(label, label), take)
    return plan


def test_rounds_are_interleaved_and_begin_with_another_each_time() -> None:
    sampler = Sampler()
    plan = planned(a=sampler.taking("a"), b=sampler.taking("b"))
    play([plan], 3, told=lambda what: None)
    assert "".join(sampler.taken) == "abbaab"
    assert [row.values("rate") for row in plan.measure.rows] == [[1.0, 4.0, 5.0], [2.0, 3.0, 6.0]]


def test_a_contender_that_fails_is_told_and_the_others_go_on() -> None:
    sampler = Sampler()
    plan = planned(
        bad=sampler.failing("bad", ContenderError("it fell")), good=sampler.taking("good")
    )
    play([plan], 4, told=lambda what: None)
    bad, good = plan.measure.rows
    assert bad.failures == ["round 1: it fell", "round 2: it fell"]
    assert not bad.samples
    assert len(good.samples) == 4


def test_what_nobody_expected_is_told_too() -> None:
    sampler = Sampler()
    plan = planned(bad=sampler.failing("bad", KeyError("seconds")), good=sampler.taking("good"))
    play([plan], 1, told=lambda what: None)
    assert plan.measure.rows[0].failures == ["round 1: KeyError: 'seconds'"]
    assert len(plan.measure.rows[1].samples) == 1


def test_a_round_across_plans_goes_through_all_of_them() -> None:
    sampler, noted = Sampler(), list[str]()
    plans = [planned(a=sampler.taking("a"), b=sampler.taking("b")), planned(c=sampler.taking("c"))]
    play(
        plans,
        2,
        across=True,
        told=lambda what: None,
        noted=lambda: noted.append("".join(sampler.taken)),
    )
    assert noted == ["ab", "abc", "abcba", "abcbac"]


def test_a_way_that_a_contender_lacks_is_tried_once() -> None:
    sampler = Sampler()
    plan = planned(lacking=sampler.failing("lacking", NoSuchMode("no such way")))
    play([plan], 3, told=lambda what: None)
    assert sampler.taken == ["lacking"]
    assert set(plan.measure.rows[0].failures) == {"no such way"}


def test_when_time_is_up_no_further_round_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, clock = Sampler(), Clock(1.0)
    monkeypatch.setattr(rounds, "time", clock)
    plans = [planned(a=sampler.taking("a")), planned(b=sampler.taking("b"))]
    play(plans, 5, limit=10.0, told=lambda what: None)
    assert "".join(sampler.taken) == "aaabb"


def test_a_machine_too_slow_for_the_first_round_leaves_out_who_would_come_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, clock = Sampler(), Clock(8.0)
    monkeypatch.setattr(rounds, "time", clock)
    plan = planned(a=sampler.taking("a"), b=sampler.taking("b"))
    play([plan], 5, limit=10.0, told=lambda what: None)
    assert sampler.taken == ["a"]
    assert [row.failures for row in plan.measure.rows] == [[], ["left out: the time was up"]]


def test_each_step_is_told_also_those_that_are_left_out() -> None:
    told: list[str] = []
    play([planned(a=Sampler().taking("a"))], 3, limit=1e-9, told=told.append)
    assert told == ["m: a"] * 3
