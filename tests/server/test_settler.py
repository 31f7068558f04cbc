from __future__ import annotations

import asyncio
import logging
import math

import pytest

from asynqpy.broker.outcomes import Archive, Done, Outcome, Requeue, Settlement
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server.settler import Settler
from asynqpy.task import ActiveTask
from tests.fake_clock import FakeClock
from tests.server.making import NOW, a_delivery, a_message, a_task

REFUSED = BrokerError("NOREPLICAS")
BROKEN = BrokerUnavailableError("connection reset")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def settler(clock: FakeClock) -> Settler:
    return Settler(clock=clock)


def add(settler: Settler, task_id: str, outcome: Outcome | None = None) -> ActiveTask:
    delivery = a_delivery(a_message(id=task_id), expires_at=NOW + 30)
    task = a_task(delivery.message)
    settler.add(task, delivery, outcome or Done())
    return task


def ids_taken(settler: Settler, *, everything: bool = False) -> list[str]:
    return [item.task.id for item in settler.take(everything=everything)]


def test_outcome_is_sent_with_the_fence_of_its_lease_and_the_time_it_was_decided(
    settler: Settler, clock: FakeClock
) -> None:
    settler.add(a_task(), a_delivery(stamp=77), Archive("no"))
    clock.advance(5)
    (item,) = settler.take()
    assert item.settlement.fence == "77"
    assert item.settlement.outcome == Archive("no")
    assert item.settlement.ended_at == NOW


def test_outcomes_are_taken_once_and_in_order(settler: Settler) -> None:
    for task_id in "abc":
        add(settler, task_id)
    assert ids_taken(settler) == ["a", "b", "c"]
    assert ids_taken(settler) == []
    assert len(settler) == 0


def test_settled_outcome_is_kept_no_longer(settler: Settler) -> None:
    add(settler, "a")
    assert settler.answered(settler.take(), [True]) == []
    assert len(settler) == 0
    assert settler.next_due() == math.inf


def test_task_of_another_holder_is_answered_as_lost(settler: Settler) -> None:
    add(settler, "a")
    lost = add(settler, "b")
    assert settler.answered(settler.take(), [True, False]) == [lost]
    assert len(settler) == 0


def test_fresh_outcome_is_due_at_once(settler: Settler) -> None:
    add(settler, "a")
    assert settler.next_due() == 0.0


def test_refused_outcome_is_offered_again_after_a_second(
    settler: Settler, clock: FakeClock
) -> None:
    add(settler, "a")
    settler.answered(settler.take(), [REFUSED])
    assert ids_taken(settler) == []
    assert settler.next_due() == 1.0
    clock.advance(1)
    assert ids_taken(settler) == ["a"]


def test_refused_outcome_does_not_hold_up_fresh_ones(settler: Settler) -> None:
    add(settler, "a")
    settler.answered(settler.take(), [REFUSED])
    add(settler, "b")
    assert settler.next_due() == 0.0
    assert ids_taken(settler) == ["b"]
    assert len(settler) == 1


def test_everything_is_taken_when_the_server_stops_due_or_not(settler: Settler) -> None:
    add(settler, "a")
    settler.answered(settler.take(), [REFUSED])
    add(settler, "b")
    assert sorted(ids_taken(settler, everything=True)) == ["a", "b"]
    assert len(settler) == 0


def test_refused_outcome_is_offered_until_the_lease_ends_and_then_given_up(
    settler: Settler, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    add(settler, "a")
    offers = 0
    while taken := settler.take():
        offers += 1
        settler.answered(taken, [REFUSED])
        clock.advance(1)
    assert offers == 31
    assert len(settler) == 0
    assert "gave up: could not write Done of task a, and its lease has ended" in caplog.text


@pytest.mark.parametrize("error", [BROKEN, asyncio.CancelledError()], ids=["broken", "cancelled"])
def test_unanswered_outcome_is_offered_for_as_long_as_redis_is_away(
    settler: Settler,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    add(settler, "a")
    for _ in range(600):
        settler.unanswered(settler.take(), error)
        clock.advance(1)
    assert ids_taken(settler) == ["a"]
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


def test_outcome_that_fails_by_a_fault_of_ours_is_given_up_when_the_lease_ends(
    settler: Settler, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    add(settler, "a")
    settler.unanswered(settler.take(), ValueError("unwritable"))
    clock.advance(30)
    settler.unanswered(settler.take(), ValueError("unwritable"))
    assert len(settler) == 0
    assert "gave up" in caplog.text
    assert "unwritable" in caplog.text


def test_loss_after_a_refusal_is_a_loss(settler: Settler) -> None:
    task = add(settler, "a")
    settler.answered(settler.take(), [REFUSED])
    assert settler.answered(settler.take(everything=True), [False]) == [task]


def test_loss_after_a_lost_answer_may_be_our_own_success_and_is_not_told(
    settler: Settler,
) -> None:
    add(settler, "a")
    settler.unanswered(settler.take(), BROKEN)
    assert settler.answered(settler.take(everything=True), [False]) == []
    assert len(settler) == 0


def test_loss_after_an_answer_that_says_redis_was_unavailable_is_not_told(
    settler: Settler,
) -> None:
    add(settler, "a")
    settler.answered(settler.take(), [BROKEN])
    assert settler.answered(settler.take(everything=True), [False]) == []


def test_task_that_was_not_begun_is_handed_back_and_its_loss_is_not_told(
    settler: Settler, clock: FakeClock
) -> None:
    settler.hand_back(a_task(), a_delivery(stamp=77))
    (item,) = settler.take()
    assert item.settlement == Settlement(a_message(), "77", Requeue(), NOW)
    assert settler.answered([item], [False]) == []
    assert len(settler) == 0


def test_outcome_is_offered_for_as_long_as_its_lease_was_extended(
    settler: Settler, clock: FakeClock
) -> None:
    delivery = a_delivery(expires_at=NOW + 30)
    settler.add(a_task(), delivery, Done())
    delivery.lease.expires_at = NOW + 60
    clock.advance(59)
    settler.answered(settler.take(), [REFUSED])
    assert len(settler) == 1


def test_uncertainty_survives_a_later_refusal(settler: Settler) -> None:
    add(settler, "a")
    settler.unanswered(settler.take(), BROKEN)
    settler.answered(settler.take(everything=True), [REFUSED])
    assert settler.answered(settler.take(everything=True), [False]) == []


def test_log_names_the_task_in_extra(settler: Settler, caplog: pytest.LogCaptureFixture) -> None:
    add(settler, "a")
    settler.answered(settler.take(), [REFUSED])
    (record,) = caplog.records
    assert record.__dict__["task_id"] == "a"
    assert record.__dict__["queue"] == "default"
