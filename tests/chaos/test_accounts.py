"""A ledger that cannot find a loss is worthless: these journals have one of everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from tests.chaos.accounts import Accounts, balance, percentile
from tests.chaos.journal import Entry
from tests.chaos.ledger import SECOND, Ledger

POISON = "poison pill: 3 workers died while they ran it"

#: Process ids.
ONE, TWO, THREE, PRODUCER, REDIS = 1, 2, 3, 99, 0


def at(seconds: float, kind: str, pid: int, extra: str = "", task_id: str = "t1") -> Entry:
    return Entry(int(seconds * SECOND), kind, task_id, pid, extra)


def accounts(
    *entries: Entry, archived: Mapping[str, str] | None = None, left: Iterable[str] = ()
) -> Accounts:
    ledger = Ledger()
    ledger.add([at(0.1, "acked", PRODUCER), *entries])
    return balance(ledger, archived or {}, left)


def killed(seconds: float, pid: int, kind: str = "sigkill") -> Entry:
    return at(seconds, "fault", pid, kind, "-")


def test_task_that_ran_once_is_in_order() -> None:
    found = accounts(at(1, "start", ONE, "0"), at(2, "end", ONE, "0 ok"))
    assert found == Accounts()


def test_acknowledged_task_that_nobody_has_is_lost() -> None:
    assert accounts().lost == ["t1"]
    assert accounts(at(1, "start", ONE, "0"), at(2, "end", ONE, "0 failed")).lost == ["t1"]


def test_task_that_is_still_in_redis_is_not_lost() -> None:
    assert accounts(left=["t1"]).lost == []


def test_task_that_was_never_acknowledged_cannot_be_lost() -> None:
    ledger = Ledger()
    ledger.add([at(1, "uncertain", PRODUCER, "no answer")])
    assert balance(ledger, {}, []).lost == []


def test_run_again_of_a_task_in_flight_at_a_kill_is_excused() -> None:
    found = accounts(
        at(1, "start", ONE, "0"),
        killed(2, ONE),
        at(14, "start", TWO, "0"),
        at(15, "end", TWO, "0 ok"),
    )
    assert (found.extra, found.excused, found.unexcused) == (1, 1, [])
    assert (found.in_flight, found.latencies, found.burned) == (1, [12.0], {})


def test_one_kill_excuses_one_run_only() -> None:
    found = accounts(
        at(1, "start", ONE, "0"),
        killed(2, ONE),
        at(14, "start", TWO, "0"),
        at(15, "end", TWO, "0 ok"),
        at(20, "start", THREE, "0"),
        at(21, "end", THREE, "0 ok"),
    )
    assert (found.excused, found.unexcused, found.finished_again) == (1, ["t1"], ["t1"])


def test_run_again_without_a_fault_is_found() -> None:
    found = accounts(at(1, "start", ONE, "0"), at(9, "start", TWO, "0"), at(10, "end", TWO, "0 ok"))
    assert (found.excused, found.unexcused) == (0, ["t1"])


def test_kill_of_another_process_excuses_nothing() -> None:
    found = accounts(at(1, "start", ONE, "0"), killed(2, THREE), at(9, "start", TWO, "0"))
    assert found.unexcused == ["t1"]


def test_fault_of_redis_excuses_what_ran_on_every_process() -> None:
    found = accounts(at(1, "start", ONE, "0"), killed(2, REDIS, "redis"), at(9, "start", TWO, "0"))
    assert (found.excused, found.unexcused) == (1, [])


@pytest.mark.parametrize(("ended", "excused"), [(1.9, 1), (1.5, 0)])
def test_outcome_may_have_been_on_its_way_when_the_worker_was_killed(
    ended: float, excused: int
) -> None:
    found = accounts(
        at(0.1, "start", ONE, "0"),
        at(ended, "end", ONE, "0 ok"),
        killed(2, ONE),
        at(14, "start", TWO, "0"),
    )
    assert (found.excused, len(found.unexcused)) == (excused, 1 - excused)
    assert (found.finished_again, found.latencies) == (["t1"], [])


def test_worker_that_is_asked_to_end_writes_its_outcomes_first() -> None:
    found = accounts(
        at(1, "start", ONE, "0"),
        at(1.9, "end", ONE, "0 ok"),
        killed(2, ONE, "sigterm"),
        at(14, "start", TWO, "0"),
    )
    assert (found.unexcused, found.finished_again) == (["t1"], ["t1"])


def test_fault_that_lasts_catches_what_starts_meanwhile() -> None:
    found = accounts(
        killed(1, ONE, "sigterm"),
        at(2, "start", ONE, "0"),
        at(3, "end", ONE, "0 cancelled:server-shutdown"),
        at(3.1, "mended", ONE, "sigterm", "-"),
        at(4, "start", TWO, "0"),
    )
    assert (found.excused, found.unexcused) == (1, [])


def test_retry_after_a_failure_is_no_extra_run() -> None:
    found = accounts(
        at(1, "start", ONE, "0"),
        at(2, "end", ONE, "0 failed"),
        at(3, "start", ONE, "1"),
        at(4, "end", ONE, "1 ok"),
    )
    assert (found.extra, found.burned, found.lost) == (0, {}, [])


def test_retry_counted_without_a_failure_is_burned() -> None:
    found = accounts(at(1, "start", ONE, "0"), killed(2, ONE), at(90, "start", TWO, "1"))
    assert found.burned == {"t1": 1}


def test_enqueue_that_was_repeated_in_doubt_may_run_twice() -> None:
    found = accounts(
        at(0.5, "uncertain", PRODUCER, "no answer"),
        at(1, "start", ONE, "0"),
        at(2, "end", ONE, "0 ok"),
        at(3, "start", TWO, "0"),
        at(4, "end", TWO, "0 ok"),
    )
    assert (found.doubtful, found.unexcused) == (1, [])


def test_task_archived_without_a_finished_attempt_is_found() -> None:
    found = accounts(at(1, "start", ONE, "0"), killed(2, ONE), archived={"t1": "lease expired"})
    assert (found.archived_untried, found.lost) == (["t1"], [])


def test_task_archived_after_a_failure_is_in_order() -> None:
    found = accounts(
        at(1, "start", ONE, "0"), at(2, "end", ONE, "0 failed"), archived={"t1": "it failed"}
    )
    assert (found.archived, found.archived_untried, found.burned) == (["t1"], [], {})


@pytest.mark.parametrize(("crashes", "few"), [(3, []), (2, ["t1"])])
def test_poison_pill_has_crashed_three_workers(crashes: int, few: list[str]) -> None:
    entries = [
        entry
        for pid in range(1, crashes + 1)
        for entry in (at(pid * 10, "start", pid, "0"), killed(pid * 10 + 1, pid, "poison"))
    ]
    found = accounts(*entries, archived={"t1": POISON})
    assert (found.few_crashes, found.archived_untried) == (few, [])


def test_restarts_after_the_first_crash_are_measured_apart() -> None:
    found = accounts(
        at(1, "start", ONE, "0"),
        killed(2, ONE),
        at(14, "start", TWO, "0"),
        killed(15, TWO),
        at(45, "start", THREE, "0"),
        at(46, "end", THREE, "0 ok"),
    )
    assert (found.latencies, found.later_latencies, found.in_flight) == ([12.0], [30.0], 2)


def test_finished_task_is_counted_once() -> None:
    ledger = Ledger()
    for pid in (ONE, TWO):
        ledger.add([at(1, "start", pid, "0"), at(2, "end", pid, "0 ok")])
    assert (ledger.started, ledger.finished) == (2, 1)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 99, 0), ([3, 1, 2], 50, 2), (range(1, 101), 99, 99), ([5], 1, 5), ([1, 2], 100, 2)],
)
def test_percentile_is_one_of_the_values(
    values: Iterable[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected
