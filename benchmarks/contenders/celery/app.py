"""Celery: the application and the task that both sides share. Without a result backend no results are kept, which is
the default."""

from __future__ import annotations

from typing import Any

import peer_worker
from celery import Celery
from celery.signals import worker_ready

app = Celery("bench", broker=peer_worker.redis_url())
app.conf.broker_connection_retry_on_startup = True

noop = app.task(peer_worker.work, name="noop")


@worker_ready.connect
def started(**_: Any) -> None:
    peer_worker.booted()
