from __future__ import annotations

from datetime import datetime

import pytest

from asynqpy.broker.messages import TaskMessage
from asynqpy.cli.demo_record import Event, Kind, Record
from asynqpy.errors import SkipRetry
from asynqpy.task import ActiveTask, TaskInfo, TaskState


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def record(clock: FakeClock) -> Record:
    return Record(clock)


def message(task_id: str, *, retried: int = 0, max_retry: int = 3) -> TaskMessage:
    return TaskMessage(
        type="work",
        payload=b"",
        id=task_id,
        queue="default",
        retried=retried,
        max_retry=max_retry,
        timeout=1800,
    )


def info(task_id: str, *, at: float | None = None) -> TaskInfo:
    state = TaskState.PENDING if at is None else TaskState.SCHEDULED
    return TaskInfo.of(message(task_id), state, next_process_at=at)


def active(task_id: str, *, retried: int = 0, max_retry: int = 3) -> ActiveTask:
    async def write_result(data: bytes) -> None: ...

    task = message(task_id, retried=retried, max_retry=max_retry)
    return ActiveTask(task, deadline=2_000_000_000.0, write_result=write_result)


async def succeed(task: ActiveTask) -> None: ...


async def fail(task: ActiveTask) -> None:
    raise ValueError("no")


def kinds(record: Record) -> list[Kind]:
    return [event.kind for event in record.take_events()]


def test_enqueued_task_is_pending(record: Record) -> None:
    record.enqueued([info("a")])
    assert record.take_events() == [Event(0.0, Kind.ENQUEUED, "default", "a")]
    assert record.in_state("default", TaskState.PENDING) == 1


def test_scheduled_task_tells_for_when(record: Record) -> None:
    record.enqueued([info("a", at=2_000_000_000)])
    (event,) = record.take_events()
    assert event.kind is Kind.SCHEDULED
    assert event.note == f"for {datetime.fromtimestamp(2_000_000_000):%H:%M:%S}"
    assert record.in_state("default", TaskState.SCHEDULED) == 1


def test_crowd_is_one_event_and_counts_in_full(record: Record) -> None:
    record.enqueued([info(str(n)) for n in range(28)])
    (event,) = record.take_events()
    assert (event.task_id, event.note) == ("0", "and 27 more in one round trip")
    assert record.count(Kind.ENQUEUED) == record.accepted("default") == record.unfinished == 28


async def test_success_passes_through_active_to_completed(record: Record, clock: FakeClock) -> None:
    async def work(task: ActiveTask) -> None:
        assert record.in_state("default", TaskState.ACTIVE) == 1
        clock.now += 1.5

    await record.watch(active("a"), work)
    *_, completed = record.take_events()
    assert completed == Event(1.5, Kind.COMPLETED, "default", "a", "after 1.5 s")
    assert record.in_state("default", TaskState.COMPLETED) == 1


async def test_failure_goes_through_the_middleware(record: Record) -> None:
    with pytest.raises(ValueError, match="no"):
        await record.watch(active("a"), fail)
    assert kinds(record) == [Kind.STARTED]


def test_failed_task_waits_for_its_retry(record: Record) -> None:
    record.failed(active("a", retried=1), ValueError("no"))
    record.retried(active("a", retried=1), 2.0)
    failed, retried = record.take_events()
    assert (failed.kind, failed.note) == (Kind.FAILED, "no (attempt 2 of 4)")
    assert (retried.kind, retried.note) == (Kind.RETRIED, "again within 2 s")
    assert record.in_state("default", TaskState.RETRY) == 1


@pytest.mark.parametrize(("retried", "error"), [(3, ValueError("no")), (0, SkipRetry("declined"))])
def test_task_without_another_attempt_is_archived(
    record: Record, retried: int, error: Exception
) -> None:
    record.failed(active("a", retried=retried), error)
    assert kinds(record) == [Kind.FAILED, Kind.ARCHIVED]
    assert record.in_state("default", TaskState.ARCHIVED) == 1


async def test_worker_that_is_faster_than_the_answer_keeps_its_state(record: Record) -> None:
    await record.watch(active("a"), succeed)
    record.enqueued([info("a")])
    assert record.in_state("default", TaskState.COMPLETED) == 1
    assert record.unfinished == 0


async def test_median_wait_is_of_first_attempts(record: Record, clock: FakeClock) -> None:
    record.enqueued([info("a"), info("b"), info("c")])
    for task_id in ("a", "b", "c"):
        clock.now += 1
        await record.watch(active(task_id), succeed)
    clock.now += 60
    await record.watch(active("a", retried=1), succeed)
    assert record.median_wait("default") == 2.0


def test_median_wait_of_no_tasks_is_none(record: Record) -> None:
    assert record.median_wait("default") == 0.0


async def test_all_ended_when_each_is_completed_or_archived(record: Record) -> None:
    record.enqueued([info("a"), info("b")])
    await record.watch(active("a"), succeed)
    assert record.unfinished == 1
    record.failed(active("b"), SkipRetry("declined"))
    assert record.unfinished == 0
    await record.wait_until_all_ended()
