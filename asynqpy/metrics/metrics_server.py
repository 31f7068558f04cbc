"""The endpoint that Prometheus scrapes and Kubernetes probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from asynqpy.errors import BrokerError
from asynqpy.metrics.http import HttpServer, Request, Response
from asynqpy.metrics.queue_metrics import QueueMetrics
from asynqpy.metrics.worker_metrics import WorkerMetrics
from asynqpy.server.server import Server, ServerState

#: That of asynq's own exporter.
PORT = 9876

#: Seconds that Redis has to answer before a process counts as not ready.
_PATIENCE = 2.0


class MetricsServer:
    """Serves metrics and the state of a process over HTTP, on the event loop that starts it.

        metrics = WorkerMetrics()
        server = Server("redis://localhost:6379", observer=metrics)
        async with MetricsServer(worker=metrics, server=server, host="0.0.0.0"):
            await server.run(mux)

    - ``/metrics``: those of ``worker`` and of ``queues``, which are looked at for it; those of ``registry`` as well.
    - ``/healthz``: 200 as long as the event loop runs.
    - ``/readyz``: 200 while Redis answers and the ``server`` takes tasks, else 503 and the reason.

    It listens on ``port`` of ``host``, by default 9876 of the loopback interface; port 0 is any that is free. It has no
    password and no TLS. What it is given is not closed with it.
    """

    def __init__(
        self,
        *,
        worker: WorkerMetrics | None = None,
        queues: QueueMetrics | None = None,
        server: Server | None = None,
        registry: CollectorRegistry | None = None,
        host: str = "127.0.0.1",
        port: int = PORT,
    ) -> None:
        self._worker = worker
        self._queues = queues
        self._server = server
        self._registry = registry
        self._host = host
        self._asked_port = port
        self._http = HttpServer(
            {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        )

    def __repr__(self) -> str:
        return f"<MetricsServer {self._host}:{self._asked_port}>"

    @property
    def port(self) -> int:
        """That on which it listens. ``RuntimeError`` while it does not."""
        return self._http.port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen. Raises ``OSError`` where that is impossible, as on a port in use."""
        await self._http.start(self._host, self._asked_port)

    async def close(self) -> None:
        """Listen no more; answers under way have a second. Idempotent."""
        await self._http.close()

    async def _metrics(self, request: Request) -> Response:
        if self._queues is not None:
            await self._queues.refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # In a thread: with a thousand queues it takes longer than handlers should have to wait.
        body = await asyncio.to_thread(self._expose, encode)
        return Response(body, content_type=content_type)

    async def _healthz(self, request: Request) -> Response:
        return Response.text("alive")

    async def _readyz(self, request: Request) -> Response:
        try:
            await self._check_ready()
        except (BrokerError, _NotReadyError) as error:
            return Response.text(str(error), HTTPStatus.SERVICE_UNAVAILABLE)
        except TimeoutError:
            text = f"Redis gave no answer within {_PATIENCE:g} s"
            return Response.text(text, HTTPStatus.SERVICE_UNAVAILABLE)
        return Response.text("ready")

    async def _check_ready(self) -> None:
        if self._server is not None and self._server.state is not ServerState.ACTIVE:
            raise _NotReadyError(f"the server is {self._server.state}")
        asked = self._server or self._queues
        if asked is not None:
            async with asyncio.timeout(_PATIENCE):
                await asked.ping()

    def _expose(self, encode: Callable[[Collector], bytes]) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        for source in (self._worker, self._queues, self._registry):
            if source is not None:
                registry.register(_Unnamed(source))
        return encode(registry)


class _Unnamed(Collector):
    """A collector that the registry asks nothing while it is registered."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source.collect()


class _NotReadyError(Exception):
    """Why a process is not ready."""
