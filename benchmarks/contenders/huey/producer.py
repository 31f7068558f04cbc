"""Huey: calling the task enqueues it. It has no way to enqueue many at once: ``map`` sends one after another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import app
import peer_producer


@contextmanager
def client(url: str) -> Iterator[peer_producer.Ways]:
    yield peer_producer.Ways(send=app.noop, ping=app.huey.storage.conn.ping)
    app.huey.storage.close()


if __name__ == "__main__":
    peer_producer.drive_threads(client)
