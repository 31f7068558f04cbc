from __future__ import annotations

import math

from tests.chaos.ledger import SECOND, Ledger, Run, Story
from tests.chaos.shards import extra_runs, first_start, longest_gap, queue_of, runs_in


def run_at(seconds: float, how: str = "ok") -> Run:
    return Run(int(seconds * SECOND), 1, 0, int(seconds * SECOND) + 1, how)


def test_the_queue_of_an_order_is_in_its_id() -> None:
    assert queue_of("q12-345") == "q12"


def test_runs_are_those_of_the_queues() -> None:
    ledger, own = Ledger(), run_at(1)
    ledger.tasks["q1-0"] = Story(runs=[own])
    ledger.tasks["q11-0"] = Story(runs=[run_at(1)])
    assert list(runs_in(ledger, ["q1", "q2"])) == [own]


def test_the_longest_gap_reaches_to_both_ends_of_the_time() -> None:
    runs = [run_at(3), run_at(1), run_at(9), run_at(4)]
    assert longest_gap(runs, 0, 5 * SECOND) == 2.0
    assert longest_gap(runs, 4 * SECOND, 8 * SECOND) == 4.0
    assert longest_gap([], 0, 7 * SECOND) == 7.0


def test_the_first_start_is_never_without_one() -> None:
    assert first_start([run_at(1), run_at(5), run_at(3)], 2 * SECOND) == 1.0
    assert first_start([run_at(1)], 2 * SECOND) == math.inf


def test_a_run_after_a_failure_is_not_extra() -> None:
    first, second = run_at(1, "failed"), run_at(2)
    stories = {"q1-0": Story(runs=[first, second]), "q1-1": Story(runs=[second, run_at(3)])}
    assert list(extra_runs(stories)) == [("q1-1", second)]
