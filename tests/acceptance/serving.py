"""A server that looks again and again at once, for tests that wait for what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asynqpy import Handler, Server

_EAGER = {
    "task_check_interval": 0.02,
    "delayed_task_check_interval": 0.02,
    "janitor_interval": 0.1,
    "shutdown_timeout": 5,
}


def eager_server(url: str, **options: Any) -> Server:
    return Server(url, **{**_EAGER, **options})


@asynccontextmanager
async def serving(url: str, handler: Handler, **options: Any) -> AsyncIterator[Server]:
    """Process tasks while the block runs."""
    async with eager_server(url, **options).running(handler) as server:
        yield server


def without_debugging() -> None:
    """For tests about load: asyncio's debug mode takes several times as long."""
    asyncio.get_running_loop().set_debug(False)
