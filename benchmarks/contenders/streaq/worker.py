"""streaQ: ``Worker.run_async``, which its command line runs too, in this process. CPU work is a plain function, which
streaQ runs in threads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker
from streaq import Worker


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    peer_worker.ready()
    yield


async def main() -> None:
    run = peer_worker.the_run()
    tally = peer_worker.Tally()
    worker = Worker(redis_url=run.url, concurrency=run.concurrency, lifespan=lifespan)

    async def noop(n: int) -> None:
        await tally.work(n)

    def burn(n: int) -> None:
        tally.work_in_thread(n)

    worker.task(name="noop")(burn if run.workload == "cpu" else noop)
    await peer_worker.serve(tally, worker.run_async())


if __name__ == "__main__":
    peer_worker.run(main)
