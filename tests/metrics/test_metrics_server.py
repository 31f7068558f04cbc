from __future__ import annotations

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from asynqpy.metrics import MetricsServer, QueueMetrics, WorkerMetrics
from tests.redis_process import HOST, free_port


async def test_both_forms_are_parsed_by_prometheus_own_client(redis_url: str) -> None:
    async with (
        QueueMetrics(redis_url) as queues,
        MetricsServer(worker=WorkerMetrics(), queues=queues, port=0) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}") as client,
    ):
        text = (await client.get("/metrics")).text
        assert "asynq_queue_size" in {family.name for family in plain(text)}
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        text = (await client.get("/metrics", headers=accept)).text
        assert "asynqpy_redis_up" in {family.name for family in openmetrics(text)}  # type: ignore[no-untyped-call]
        assert (await client.get("/readyz")).status_code == 200


async def test_without_redis_it_is_alive_and_not_ready() -> None:
    async with (
        QueueMetrics(f"redis://{HOST}:{free_port()}", timeout=1) as queues,
        MetricsServer(worker=WorkerMetrics(), queues=queues, port=0) as served,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=20) as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert "asynqpy_redis_up 0.0" in (await client.get("/metrics")).text
