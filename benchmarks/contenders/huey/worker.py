"""Huey: its consumer with ``concurrency`` threads, its default kind of worker; with greenlets for waiting and a process
for each core for CPU work, as its documentation advises."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker

CONSUMER = "from huey.bin.huey_consumer import consumer_main; consumer_main()"
PATCHED = f"from gevent import monkey; monkey.patch_all(); {CONSUMER}"


def main() -> None:
    run = peer_worker.the_run()
    kind, workers = "thread", run.concurrency
    if run.workload == "sleep":
        kind = "greenlet"
    elif run.workload == "cpu":
        kind, workers = "process", min(run.concurrency, peer_worker.CORES)
    code = PATCHED if kind == "greenlet" else CONSUMER
    command = ["-c", code, "app.huey", "--workers", str(workers), "--worker-type", kind, "--quiet"]
    peer_worker.supervise(command, boots=workers)


if __name__ == "__main__":
    main()
