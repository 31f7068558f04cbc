from __future__ import annotations

import asyncio
import logging

import pytest

from asynqpy.server.deadlines import Deadlines
from asynqpy.server.runs import Run
from asynqpy.task import CancelCause
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.server.making import a_message, a_run, running


@pytest.fixture
def deadlines(clock: FakeClock) -> Deadlines:
    return Deadlines(clock)


def run_until(clock: FakeClock, seconds: float, name: str = "t1") -> Run:
    """A run that sleeps for ever, with so many seconds left."""
    run = a_run(a_message(id=name), deadline=clock.now() + seconds)
    return running(run, asyncio.Event().wait)


async def end(*runs: Run) -> None:
    for run in runs:
        assert run.job is not None
        run.job.cancel()
        await asyncio.wait([run.job])


async def test_a_run_is_cancelled_at_its_deadline_with_the_cause(
    deadlines: Deadlines, clock: FakeClock
) -> None:
    run = run_until(clock, 0.06)
    deadlines.add(run)
    assert run.job is not None
    await asyncio.wait([run.job], timeout=5)
    assert run.job.cancelled()
    assert run.task.cancel_cause is CancelCause.DEADLINE
    deadlines.remove(run)
    assert len(deadlines) == 0


async def test_a_later_deadline_waits_behind_an_earlier_one_that_came_second(
    deadlines: Deadlines, clock: FakeClock
) -> None:
    late, early = run_until(clock, 3600, "late"), run_until(clock, 0.06, "early")
    deadlines.add(late)
    deadlines.add(early)
    assert early.job is not None
    assert late.job is not None
    await asyncio.wait([early.job], timeout=5)
    assert early.job.cancelled()
    assert not late.job.done()
    deadlines.remove(early)
    deadlines.remove(late)
    await end(late)


async def test_a_run_that_has_ended_is_left_alone(deadlines: Deadlines, clock: FakeClock) -> None:
    ended, other = run_until(clock, 0.01, "ended"), run_until(clock, 0.2, "other")
    deadlines.add(ended)
    deadlines.remove(ended)
    deadlines.add(other)
    assert other.job is not None
    await asyncio.wait([other.job], timeout=5)
    assert ended.task.cancel_cause is None
    await end(ended)


async def test_runs_of_one_slot_are_all_cancelled(deadlines: Deadlines, clock: FakeClock) -> None:
    runs = [run_until(clock, 0.05, f"t{n}") for n in range(20)]
    for run in runs:
        deadlines.add(run)
    await eventually(lambda: all(run.job and run.job.cancelled() for run in runs))


async def test_slots_that_emptied_are_forgotten_and_those_in_use_are_not(
    deadlines: Deadlines, clock: FakeClock
) -> None:
    keeps = run_until(clock, 7200, "keeps")
    deadlines.add(keeps)
    for n in range(5_000):
        run = a_run(deadline=clock.now() + 1800 + n)
        deadlines.add(run)
        deadlines.remove(run)
    assert len(deadlines) == 1
    assert len(deadlines._slots) < 200
    assert len(deadlines._order) == len(deadlines._slots)
    assert keeps in deadlines._slots[max(deadlines._slots)]
    await end(keeps)


async def test_a_run_that_goes_on_is_cancelled_again_and_the_log_says_so(
    deadlines: Deadlines,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("asynqpy.server.deadlines._INSIST_AFTER", 0.01)
    cancels = 0

    async def goes_on() -> None:
        nonlocal cancels
        while cancels < 3:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                cancels += 1

    run = running(a_run(deadline=clock.now() + 0.01), goes_on)
    deadlines.add(run)
    with caplog.at_level(logging.WARNING, "asynqpy.server"):
        assert run.job is not None
        await asyncio.wait([run.job], timeout=5)
    deadlines.remove(run)
    assert cancels == 3
    assert "past its deadline" in caplog.text
    assert len(deadlines) == 0


async def test_after_a_blocked_loop_all_that_is_overdue_is_cut_off_at_once(
    deadlines: Deadlines, clock: FakeClock
) -> None:
    first, second = run_until(clock, 0.05, "first"), run_until(clock, 30, "second")
    deadlines.add(first)
    deadlines.add(second)
    clock.advance(60)
    await eventually(lambda: second.job is not None and second.job.cancelled())
    assert first.job is not None
    assert first.job.cancelled()
