"""taskiq: ``taskiq worker`` with one worker process. CPU work goes to its pool of processes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker


def main() -> None:
    run = peer_worker.the_run()
    command = ["-m", "taskiq", "worker", "app:broker", "--workers", "1", "--log-level", "WARNING"]
    command += ["--max-async-tasks", str(run.concurrency)]
    if run.workload == "cpu":
        command += ["--use-process-pool", "--max-process-pool-processes", str(peer_worker.CORES)]
    peer_worker.supervise(command)


if __name__ == "__main__":
    main()
