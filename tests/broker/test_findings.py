from __future__ import annotations

import pytest

from asynqpy.broker.findings import Finding, Problem


@pytest.mark.parametrize("problem", Problem)
def test_every_problem_breaks_an_invariant_and_is_said_in_words(problem: Problem) -> None:
    assert problem.invariant in {f"I{n}" for n in range(1, 9)}
    assert " " in problem.text


def test_every_invariant_has_a_problem() -> None:
    assert {problem.invariant for problem in Problem} == {f"I{n}" for n in range(1, 9)}


def test_finding_reads_as_a_line() -> None:
    finding = Finding(Problem.NO_LEASE, "low", "t1", "put in pending", "state active")
    assert str(finding) == (
        "I3 low: active task without a lease: t1 (state active) -> put in pending"
    )
    assert finding.invariant == "I3"
