"""Whole servers on a real Redis and the real clock, quick enough for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asynqpy.broker.connection import RedisSource
from asynqpy.handler import Handler
from asynqpy.server.server import Server

QUICK = {
    "task_check_interval": 0.02,
    "delayed_task_check_interval": 0.1,
    "janitor_interval": 0.1,
    "shutdown_timeout": 5.0,
}


def a_server(redis: RedisSource, **options: Any) -> Server:
    return Server(redis, **{**QUICK, **options})


@asynccontextmanager
async def serving(redis: RedisSource, handler: Handler, **options: Any) -> AsyncIterator[Server]:
    async with a_server(redis, **options).running(handler) as server:
        yield server


def left_behind() -> list[str]:
    """Asyncio tasks and threads of a server."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    names += [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("asynqpy:")]
