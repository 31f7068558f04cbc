from __future__ import annotations

import asyncio
import logging
import re

import pytest

from asynqpy.server.deadlines import Deadlines
from asynqpy.server.runs import Run
from asynqpy.task import CancelCause
from tests.eventually import eventually
from tests.server.making import a_message, a_run, running


@pytest.fixture
def deadlines() -> Deadlines:
    return Deadlines()


def a_sleeper(name: str = "t1") -> Run:
    """A run that would never end."""
    return running(a_run(a_message(id=name)), asyncio.Event().wait)


async def end(*runs: Run) -> None:
    for run in runs:
        assert run.job is not None
        run.job.cancel()
        await asyncio.wait([run.job])


async def test_a_run_is_cancelled_at_its_deadline_with_the_cause(deadlines: Deadlines) -> None:
    run = a_sleeper()
    deadlines.add(run, 0.06)
    assert run.job is not None
    await asyncio.wait([run.job], timeout=5)
    assert run.job.cancelled()
    assert run.task.cancel_cause is CancelCause.DEADLINE
    deadlines.remove(run)
    assert len(deadlines) == 0


async def test_a_later_deadline_waits_behind_an_earlier_one_that_came_second(
    deadlines: Deadlines,
) -> None:
    late, early = a_sleeper("late"), a_sleeper("early")
    deadlines.add(late, 3600)
    deadlines.add(early, 0.06)
    assert early.job is not None
    assert late.job is not None
    await asyncio.wait([early.job], timeout=5)
    assert early.job.cancelled()
    assert not late.job.done()
    deadlines.remove(early)
    deadlines.remove(late)
    await end(late)


async def test_a_run_that_has_ended_is_left_alone(deadlines: Deadlines) -> None:
    ended, other = a_sleeper("ended"), a_sleeper("other")
    deadlines.add(ended, 0.01)
    deadlines.remove(ended)
    deadlines.add(other, 0.2)
    assert other.job is not None
    await asyncio.wait([other.job], timeout=5)
    assert ended.task.cancel_cause is None
    await end(ended)


async def test_runs_of_one_slot_are_all_cancelled(deadlines: Deadlines) -> None:
    runs = [a_sleeper(f"t{n}") for n in range(20)]
    for run in runs:
        deadlines.add(run, 0.05)
    await eventually(lambda: all(run.job and run.job.cancelled() for run in runs))


async def test_slots_that_emptied_are_forgotten_and_those_in_use_are_not(
    deadlines: Deadlines,
) -> None:
    keeps = a_sleeper("keeps")
    deadlines.add(keeps, 7200)
    for n in range(5_000):
        run = a_run()
        deadlines.add(run, 1800 + n)
        deadlines.remove(run)
    assert len(deadlines) == 1
    assert len(deadlines._slots) < 200
    assert len(deadlines._order) == len(deadlines._slots)
    assert keeps in deadlines._slots[max(deadlines._slots)]
    await end(keeps)


async def test_a_run_that_goes_on_is_cancelled_again_and_the_log_says_so(
    deadlines: Deadlines,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("asynqpy.server.deadlines._INSIST_AFTER", 1.0)
    cancels = 0

    async def goes_on() -> None:
        nonlocal cancels
        while cancels < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels += 1

    run = running(a_run(), goes_on)
    deadlines.add(run, 0.01)
    with caplog.at_level(logging.WARNING, "asynqpy.server"):
        assert run.job is not None
        await asyncio.wait([run.job], timeout=5)
    deadlines.remove(run)
    assert cancels == 3
    assert re.findall(r"still runs (\d+) s past its deadline", caplog.text) == ["1", "2"]
    assert len(deadlines) == 0


async def test_after_a_blocked_loop_all_that_is_overdue_is_cut_off_at_once(
    deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_sleeper("first"), a_sleeper("second")
    deadlines.add(first, 60)
    deadlines.add(second, 120)
    loop = asyncio.get_running_loop()
    time_of_loop = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_of_loop() + 600)
    assert first.job is not None
    assert second.job is not None
    await asyncio.wait([first.job], timeout=5)
    await asyncio.sleep(0)
    assert second.job.cancelled()
