"""RQ: ``Queue.enqueue``, or ``enqueue_many``, which sends a pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import peer_producer
from redis import Redis
from rq import Queue

TASK = "peer_worker.work"


@contextmanager
def client(url: str) -> Iterator[peer_producer.Ways]:
    with Redis.from_url(url) as redis:
        queue = Queue(connection=redis)

        def bulk(numbers: Sequence[int]) -> None:
            queue.enqueue_many([Queue.prepare_data(TASK, (n,)) for n in numbers])

        yield peer_producer.Ways(send=lambda n: queue.enqueue(TASK, n), ping=redis.ping, bulk=bulk)


if __name__ == "__main__":
    peer_producer.drive_threads(client)
