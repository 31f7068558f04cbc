"""arq: ``Worker`` as its command line makes it, in this process. Blocking work goes to a pool of processes, as its
documentation has it ("Synchronous Jobs")."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker
from arq import Worker, func
from arq.connections import RedisSettings


async def main() -> None:
    tally = peer_worker.Tally()

    async def noop(ctx: dict[str, Any], n: int) -> None:
        await tally.work(n)

    async def on_startup(ctx: dict[str, Any]) -> None:
        peer_worker.ready()

    worker = Worker(
        [func(noop, name="noop")],
        redis_settings=RedisSettings.from_dsn(peer_worker.redis_url()),
        max_jobs=peer_worker.the_run().concurrency,
        on_startup=on_startup,
    )
    await peer_worker.serve(tally, worker.async_run())
    await worker.close()


if __name__ == "__main__":
    peer_worker.run(main)
