"""``asynqpy metrics``: the metrics of all queues of a Redis, served to Prometheus."""

from __future__ import annotations

import asyncio
import sys

from asynqpy.broker.connection import RedisSource
from asynqpy.errors import AsynqError
from asynqpy.server.signals import obeying_signals

#: Exit statuses: it cannot listen, or a package is missing; an argument makes no sense.
_FAILED, _WRONG_ARGUMENT = 1, 2


def serve_metrics(redis: RedisSource, host: str = "127.0.0.1", port: int = 9876) -> int:
    """Serve until SIGTERM or SIGINT, and answer the exit status. Redis may be away: then the metrics say so."""
    try:
        asyncio.run(_serve(redis, host, port))
    except (ValueError, TypeError) as error:
        return _fail(error, _WRONG_ARGUMENT)
    except OSError as error:
        return _fail(f"cannot listen on {host}:{port}: {error.strerror or error}", _FAILED)
    except (AsynqError, ModuleNotFoundError) as error:
        return _fail(error, _FAILED)
    return 0


async def _serve(redis: RedisSource, host: str, port: int) -> None:
    from asynqpy.metrics import MetricsServer, QueueMetrics  # of another extra

    told_to_stop = asyncio.Event()

    async def stop() -> None:
        told_to_stop.set()

    async with (
        obeying_signals(terminate=told_to_stop.set, pause=stop),
        QueueMetrics(redis) as queues,
        MetricsServer(queues=queues, host=host, port=port) as served,
    ):
        print(f"metrics on http://{host}:{served.port}/metrics", flush=True)
        await told_to_stop.wait()


def _fail(reason: object, status: int) -> int:
    print(f"asynqpy: {reason}", file=sys.stderr)
    return status
