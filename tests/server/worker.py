"""A worker in a process of its own, for tests that send it signals: ``python -m tests.server.worker URL TIMEOUT``.

A task runs until something is pushed to the list ``go:<its id>``. The log goes to stdout.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from asynqpy.server.server import Server
from asynqpy.task import ActiveTask
from tests.raw_redis import raw_client


async def main(url: str, shutdown_timeout: float) -> None:
    async with raw_client(url) as redis:

        async def handler(task: ActiveTask) -> None:
            logging.info("handling %s", task.id)
            await redis.blpop([f"go:{task.id}"])

        server = Server(
            url, concurrency=2, shutdown_timeout=shutdown_timeout, task_check_interval=0.02
        )
        await server.run(handler)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
