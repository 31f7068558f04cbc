"""Dramatiq: the broker and the actor that both sides share."""

from __future__ import annotations

import logging

import dramatiq
import peer_worker
from dramatiq.brokers.redis import RedisBroker


class Boots(dramatiq.Middleware):
    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        peer_worker.booted()


logging.getLogger("dramatiq").setLevel(logging.WARNING)
broker = RedisBroker(url=f"{peer_worker.redis_url()}?max_connections=1000")  # redis-py: 100
broker.add_middleware(Boots())
dramatiq.set_broker(broker)

noop = dramatiq.actor(peer_worker.work, actor_name="noop")
