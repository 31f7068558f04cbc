"""SAQ: ``Worker`` as its command line makes it, in this process. CPU work is a plain function, which SAQ runs in its
threads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker
from saq import Queue, Worker


async def main() -> None:
    run = peer_worker.the_run()
    tally = peer_worker.Tally()

    async def noop(ctx: dict[str, Any], *, n: int) -> None:
        await tally.work(n)

    def burn(ctx: dict[str, Any], *, n: int) -> None:
        tally.work_in_thread(n)

    async def startup(ctx: dict[str, Any]) -> None:
        peer_worker.ready()

    task = ("noop", burn if run.workload == "cpu" else noop)
    queue = Queue.from_url(run.url)
    worker: Worker[Any] = Worker(queue, [task], concurrency=run.concurrency, startup=startup)
    await peer_worker.serve(tally, worker.start())
    await queue.disconnect()


if __name__ == "__main__":
    peer_worker.run(main)
