from __future__ import annotations

import asyncio
from threading import Thread

import pytest

from asynqpy.broker.outcomes import Grant
from asynqpy.server.runs import Run, Runs
from asynqpy.task import CancelCause
from tests.eventually import eventually
from tests.server.making import NOW, a_message, a_run, running


async def sleeps() -> None:
    await asyncio.Event().wait()


def job_of(run: Run) -> asyncio.Task[None]:
    assert run.job is not None
    return run.job


async def cause_of(run: Run) -> object:
    """What the job of a cancelled run was told."""
    with pytest.raises(asyncio.CancelledError) as caught:
        async with asyncio.timeout(5):
            await job_of(run)
    return caught.value.args[0]


async def test_cancelled_run_learns_the_cause_twice() -> None:
    run = running(a_run(), sleeps)
    await asyncio.sleep(0)
    run.cancel(CancelCause.REQUESTED)
    assert await cause_of(run) is CancelCause.REQUESTED
    assert run.task.cancel_cause is CancelCause.REQUESTED


async def test_last_cause_counts() -> None:
    run = running(a_run(), sleeps)
    await asyncio.sleep(0)
    run.cancel(CancelCause.DEADLINE)
    run.cancel(CancelCause.SHUTDOWN)
    with pytest.raises(asyncio.CancelledError):
        await job_of(run)
    assert run.task.cancel_cause is CancelCause.SHUTDOWN


@pytest.mark.parametrize("later", list(CancelCause))
async def test_lost_lease_stays_lost(later: CancelCause) -> None:
    run = running(a_run(), sleeps)
    await asyncio.sleep(0)
    run.cancel(CancelCause.LEASE_LOST)
    run.cancel(later)
    assert await cause_of(run) is CancelCause.LEASE_LOST
    assert run.task.cancel_cause is CancelCause.LEASE_LOST


async def test_handler_that_swallowed_a_cancel_is_cancelled_again() -> None:
    swallowed: list[object] = []

    async def swallows_once() -> None:
        try:
            await sleeps()
        except asyncio.CancelledError as error:
            swallowed.append(error.args[0])
        await sleeps()

    run = running(a_run(), swallows_once)
    await asyncio.sleep(0)
    run.cancel(CancelCause.REQUESTED)
    await eventually(lambda: swallowed == [CancelCause.REQUESTED])
    run.cancel(CancelCause.SHUTDOWN)
    assert await cause_of(run) is CancelCause.SHUTDOWN


async def test_run_that_has_ended_is_not_cancelled() -> None:
    run = running(a_run(), sleeps)
    run.ended = True
    run.cancel(CancelCause.REQUESTED)
    assert run.task.cancel_cause is None
    assert run.job is not None
    assert not run.job.cancelling()
    run.job.cancel()


async def test_run_without_a_job_is_not_cancelled() -> None:
    run = a_run()
    run.cancel(CancelCause.REQUESTED)
    assert run.task.cancel_cause is None


async def test_cancel_waits_for_the_first_step_of_the_job() -> None:
    run = a_run()

    async def job() -> None:
        run.begun = True
        await sleeps()

    run.job = asyncio.create_task(job())
    run.cancel(CancelCause.REQUESTED)
    assert run.task.cancel_cause is None
    assert await cause_of(run) is CancelCause.REQUESTED


async def test_abort_cancels_a_run_that_has_ended_but_is_still_reporting() -> None:
    run = running(a_run(), sleeps)
    await asyncio.sleep(0)
    run.ended = True
    run.abort()
    assert run.job is not None
    with pytest.raises(asyncio.CancelledError):
        await run.job
    assert run.task.cancel_cause is None


def test_runs_are_counted_and_removed_once() -> None:
    runs, run = Runs(), a_run()
    runs.add(run)
    assert (len(runs), list(runs)) == (1, [run])
    assert runs.remove(run)
    assert not runs.remove(run)
    assert len(runs) == 0


def test_lease_is_held_until_it_is_let_go_even_when_its_run_is_removed() -> None:
    runs, run, other = Runs(), a_run(stamp=1), a_run(stamp=2)
    runs.add(run)
    runs.add(other)
    runs.remove(run)
    assert runs.held() == {run.lease: run, other.lease: other}
    for _ in range(2):
        runs.let_go(run.lease)
        assert runs.held() == {other.lease: other}
    assert list(runs) == [other]


def a_grant(queue: str) -> Grant:
    return Grant(queue, 1, "host:1:a", int(NOW) + 30, int(NOW) + 30, int(NOW) + 30)


def test_what_dequeues_under_way_give_out_is_granted_until_they_are_answered() -> None:
    runs, first, second = Runs(), [a_grant("a"), a_grant("b")], [a_grant("a")]
    with runs.granting(first):
        with runs.granting(second), runs.granting([]):
            assert runs.granted() == [*first, *second]
        assert runs.granted() == first
    assert runs.granted() == []


def test_what_a_failed_dequeue_may_have_given_out_is_granted_no_longer() -> None:
    runs = Runs()
    with pytest.raises(LookupError), runs.granting([a_grant("a")]):
        raise LookupError("no answer")
    assert runs.granted() == []


def test_task_that_was_given_away_and_taken_again_runs_twice_for_a_moment() -> None:
    runs, old, new = Runs(), a_run(stamp=1), a_run(stamp=2)
    runs.add(old)
    runs.add(new)
    runs.remove(old)
    assert list(runs) == [new]


async def test_every_run_of_a_task_is_cancelled_and_no_other() -> None:
    runs = Runs()
    mine = [running(a_run(stamp=n), sleeps) for n in (1, 2)]
    other = running(a_run(a_message(id="t2")), sleeps)
    for run in (*mine, other):
        runs.add(run)
    await asyncio.sleep(0)
    runs.cancel("t1", CancelCause.REQUESTED)
    assert [await cause_of(run) for run in mine] == [CancelCause.REQUESTED] * 2
    assert other.task.cancel_cause is None
    assert other.job is not None
    other.job.cancel()


def test_cancelling_an_unknown_task_does_nothing() -> None:
    Runs().cancel("nobody", CancelCause.REQUESTED)


async def test_waiting_ends_when_the_last_run_is_removed() -> None:
    runs, first, second = Runs(), a_run(stamp=1), a_run(stamp=2)
    await runs.wait_until_empty()
    runs.add(first)
    runs.add(second)
    waiting = asyncio.create_task(runs.wait_until_empty())
    runs.remove(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    runs.remove(second)
    await waiting


def test_snapshot_may_be_taken_from_a_thread_while_runs_come_and_go() -> None:
    runs = Runs()
    sizes: list[int] = []

    def look() -> None:
        for _ in range(2_000):
            sizes.append(max(len(runs.snapshot()), len(runs.held()), len(runs.granted())))

    thread = Thread(target=look)
    thread.start()
    while thread.is_alive():
        batch = [a_run(stamp=n) for n in range(1, 20)]
        for run in batch:
            runs.add(run)
        with runs.granting([a_grant("a")]):
            for run in batch:
                runs.remove(run)
                runs.let_go(run.lease)
    thread.join()
    assert len(sizes) == 2_000
    assert max(sizes) <= 19
