from __future__ import annotations

from prometheus_client import CollectorRegistry

from asynqpy import ActiveTask, Client, SkipRetry, Task
from asynqpy.metrics import WorkerMetrics
from asynqpy.server.observer import AttemptEnd
from tests.eventually import eventually
from tests.server.making import a_message, a_task
from tests.server.servers import serving


async def test_what_a_server_does_is_counted_by_type_and_outcome(redis_url: str) -> None:
    metrics = WorkerMetrics()
    registry = CollectorRegistry()
    registry.register(metrics)

    async def handle(task: ActiveTask) -> None:
        if task.type == "skip":
            raise SkipRetry("no")
        if task.type in ("retry", "archive"):
            raise RuntimeError("no")

    def attempts(of: str, outcome: str) -> float | None:
        labels = {"task_type": of, "outcome": outcome}
        return registry.get_sample_value("asynqpy_task_attempts_total", labels)

    expected = {"ok": "success", "skip": "skipped", "retry": "retry", "archive": "archived"}
    async with Client(redis_url) as client, serving(redis_url, handle, observer=metrics):
        await client.enqueue_many(
            [Task(it, max_retry=0 if it == "archive" else 3) for it in expected]
        )
        await eventually(lambda: all(attempts(*it) == 1 for it in expected.items()))
    for of in expected:
        labels = {"task_type": of}
        assert registry.get_sample_value("asynqpy_task_duration_seconds_count", labels) == 1
        assert registry.get_sample_value("asynqpy_task_wait_seconds_count", labels) == 1
        assert registry.get_sample_value("asynqpy_tasks_in_progress", labels) == 0
    assert registry.get_sample_value("asynqpy_settle_batch_size_sum") == len(expected)


def test_types_beyond_the_limit_are_counted_together() -> None:
    metrics = WorkerMetrics(max_types=2)
    registry = CollectorRegistry()
    registry.register(metrics)
    for n in range(5):
        task = a_task(a_message(type=f"type{n}"))
        metrics.attempt_started(task, None)
        metrics.attempt_ended(task, AttemptEnd.SUCCESS, 0.1)
    labels = {"task_type": "other", "outcome": "success"}
    assert registry.get_sample_value("asynqpy_task_attempts_total", labels) == 3
