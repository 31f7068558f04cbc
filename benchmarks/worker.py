"""A no-op worker on asynqpy: prints the seconds from the first to the last task of queue "default".

worker.py <redis URL> <concurrency> <tasks>
"""

from __future__ import annotations

import asyncio
import sys
import time

from asynqpy import ActiveTask, Server


async def main(url: str, concurrency: int, tasks: int) -> None:
    first = 0.0
    ended = 0
    done = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        nonlocal first, ended
        first = first or time.perf_counter()
        ended += 1
        if ended == tasks:
            done.set()

    async with Server(url, concurrency=concurrency).running(handle):
        await done.wait()
        print(time.perf_counter() - first)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
