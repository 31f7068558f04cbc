from __future__ import annotations

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from asynqpy.metrics import QueueMetrics
from tests.redis_process import HOST, free_port
from tests.redis_state import messages, seed_archived, seed_pending


async def test_the_values_are_those_of_redis(redis_url: str, redis: Redis) -> None:
    await seed_pending(redis, *messages(3))
    await seed_archived(redis, *messages(2, "a", queue="low"), at=1)
    registry = CollectorRegistry()
    async with QueueMetrics(redis_url, max_age=0) as metrics:
        registry.register(metrics)
        await metrics.refresh()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("asynq_tasks_enqueued_total", queue="default", state="pending") == 3
    assert value("asynq_tasks_enqueued_total", queue="low", state="archived") == 2
    assert value("asynq_queue_size", queue="low") == 2
    assert value("asynq_queue_paused_total", queue="low") == 0
    assert (value("asynq_queue_memory_usage_approx_bytes", queue="low") or 0) > 0
    assert value("asynq_tasks_processed_total", queue="default") == 0
    assert value("asynqpy_redis_up") == 1


async def test_without_redis_it_is_down_and_no_queue_is_told_of() -> None:
    registry = CollectorRegistry()
    async with QueueMetrics(f"redis://{HOST}:{free_port()}", timeout=1) as metrics:
        registry.register(metrics)
        await metrics.refresh()
    assert registry.get_sample_value("asynqpy_redis_up") == 0
    assert registry.get_sample_value("asynqpy_scrape_errors_total", {"queue": ""}) == 1
