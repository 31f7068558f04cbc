"""Dramatiq: its command line with one process of ``concurrency`` threads; for CPU work with a process for each core,
its default."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker


def main() -> None:
    run = peer_worker.the_run()
    processes = peer_worker.CORES if run.workload == "cpu" else 1
    threads = max(1, run.concurrency // processes)
    command = ["-m", "dramatiq", "app", "--processes", str(processes), "--threads", str(threads)]
    peer_worker.supervise(command, boots=processes)


if __name__ == "__main__":
    main()
