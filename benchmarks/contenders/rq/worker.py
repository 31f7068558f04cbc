"""RQ: ``rq worker-pool`` with its default worker, which forks for every job; at most two for each core."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker


def main() -> None:
    run = peer_worker.the_run()
    workers = min(run.concurrency, 2 * peer_worker.CORES)
    command = ["-m", "rq.cli", "worker-pool", "--url", run.url, "--num-workers", str(workers)]
    command += ["--worker-class", "app.BenchWorker", "--logging-level", "WARNING"]
    peer_worker.supervise(command, boots=workers)


if __name__ == "__main__":
    main()
