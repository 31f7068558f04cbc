"""RQ's own forking worker, which tells when it has registered."""

from __future__ import annotations

import peer_worker
from rq import Worker


class BenchWorker(Worker):
    def register_birth(self) -> None:
        super().register_birth()
        peer_worker.booted()
