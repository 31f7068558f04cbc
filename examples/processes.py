"""Work that needs the processor, on two cores.

    python -m examples.processes

It enqueues some work, and starts a supervisor with two worker processes. Each of them imports this module and runs its
``main``. Kill one (``kill -9`` and its pid) to see another take its place; Ctrl-C ends them all. The same from a shell,
with a line on each process:

    python -m asynqpy worker examples.processes:main --processes 2
"""

from __future__ import annotations

import asyncio
import logging
import os

from asynqpy import ActiveTask, Client, ServeMux, Server, Supervisor, Task

REDIS_URL = os.environ.get("REDIS_URL", "embedded://~/.asynqpy/processes")

mux = ServeMux()


@mux.handler("primes:count")
def count_primes(task: ActiveTask) -> None:
    """Runs in a thread, as a plain ``def`` does; of all threads of a process one computes at a time."""
    limit = task.json(int)
    composite = bytearray(limit)
    for number in range(2, int(limit**0.5) + 1):
        if not composite[number]:
            for multiple in range(number * number, limit, number):
                composite[multiple] = 1
    primes = composite.count(0) - 2  # 0 and 1 are none
    print(f"process {os.environ['ASYNQPY_PROCESS']}: {primes} primes below {limit}", flush=True)


async def main() -> None:
    """What each process runs. Two tasks at once would not be faster, as neither waits for anything."""
    await Server(REDIS_URL, concurrency=1).run(mux)


async def work_on_two_cores() -> None:
    async with Client(REDIS_URL) as client:
        await client.enqueue_many([Task("primes:count", 200_000 * n) for n in range(1, 9)])
    await Supervisor("examples.processes:main", processes=2).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(work_on_two_cores())
