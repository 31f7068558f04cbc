"""Prometheus metrics of queues and of workers, and an endpoint that serves them. Needs the extra ``metrics``."""

try:
    import prometheus_client as _prometheus_client  # noqa: F401 - whether it is there
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    text = 'asynqpy.metrics needs prometheus-client: pip install "asynqpy[metrics]"'
    raise ModuleNotFoundError(text, name=error.name) from None

from asynqpy.metrics.metrics_server import MetricsServer
from asynqpy.metrics.queue_metrics import QueueMetrics
from asynqpy.metrics.worker_metrics import WorkerMetrics

__all__ = ["MetricsServer", "QueueMetrics", "WorkerMetrics"]
