"""Huey: the instance and the task that both sides share."""

from __future__ import annotations

import peer_worker
from huey import RedisHuey

huey = RedisHuey("bench", url=f"{peer_worker.redis_url()}?max_connections=1000")  # redis-py: 100

noop = huey.task(name="noop")(peer_worker.work)


@huey.on_startup()
def started() -> None:
    peer_worker.booted()
