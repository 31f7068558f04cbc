"""Celery: ``delay``. It has no way to enqueue many at once: a group sends one after another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

import app
import peer_producer


def ping() -> None:
    """Opens a connection of the producers' pool by a task on a queue that nobody consumes."""
    app.noop.apply_async((0,), queue="warm-up")


@contextmanager
def client(url: str) -> Iterator[peer_producer.Ways]:
    yield peer_producer.Ways(send=app.noop.delay, ping=ping)
    app.app.close()


if __name__ == "__main__":
    peer_producer.drive_threads(client)
