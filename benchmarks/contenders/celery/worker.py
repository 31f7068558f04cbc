"""Celery: its command line. Prefork, the default, with at most two processes for each core, past which its
documentation sees no gain; gevent for tasks that wait, which its documentation has that pool for."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_worker


def main() -> None:
    run = peer_worker.the_run()
    command = ["-m", "celery", "-A", "app", "worker", "--loglevel", "WARNING"]
    if run.workload == "sleep":
        command += ["--pool", "gevent", "--concurrency", str(run.concurrency)]
    else:
        command += ["--concurrency", str(min(run.concurrency, 2 * peer_worker.CORES))]
    peer_worker.supervise(command)


if __name__ == "__main__":
    main()
