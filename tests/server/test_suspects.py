from __future__ import annotations

from asynqpy.broker.outcomes import SilentLease
from asynqpy.server.suspects import Suspects, is_suspect

NOW = 1_700_000_000.0


def lease(
    task_id: bytes = b"t1", *, crashes: int = 2, owner: str = "host:1:a", queue: str = "default"
) -> SilentLease:
    return SilentLease(queue, task_id, "1700000000.5", owner, crashes)


def test_task_is_a_suspect_once_two_workers_have_died_with_it() -> None:
    assert [is_suspect(lease(crashes=n)) for n in range(4)] == [False, False, True, True]


def test_one_suspect_among_those_that_ran_beside_it_is_alone() -> None:
    suspects = Suspects()
    suspects.note([lease(), lease(b"t2", crashes=1), lease(b"t3", crashes=0)], NOW)
    assert suspects.is_alone(lease())


def test_two_suspects_of_one_worker_are_not_alone() -> None:
    suspects = Suspects()
    suspects.note([lease(), lease(queue="low")], NOW)
    assert not suspects.is_alone(lease())
    assert not suspects.is_alone(lease(queue="low"))


def test_suspects_of_different_workers_are_alone() -> None:
    suspects = Suspects()
    suspects.note([lease(), lease(b"t2", owner="host:2:b")], NOW)
    assert suspects.is_alone(lease())


def test_suspect_that_was_taken_care_of_before_still_counts() -> None:
    """It leaves the list of silent leases when it is put back, and was there all the same."""
    suspects = Suspects()
    suspects.note([lease(), lease(b"t2")], NOW)
    suspects.note([lease()], NOW + 1)
    assert not suspects.is_alone(lease())


def test_dead_workers_are_forgotten_after_a_while() -> None:
    suspects = Suspects()
    suspects.note([lease(), lease(b"t2")], NOW)
    suspects.note([], NOW + 120)
    suspects.note([lease()], NOW + 121)
    assert suspects.is_alone(lease())
