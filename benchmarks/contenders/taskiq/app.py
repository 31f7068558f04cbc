"""taskiq: the broker and the task that both sides share, as in the README of taskiq-redis: a stream, with
acknowledgements, and results that expire."""

from __future__ import annotations

import peer_worker
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = peer_worker.redis_url()

broker = RedisStreamBroker(URL).with_result_backend(
    RedisAsyncResultBackend(URL, result_ex_time=1000)
)

cpu = peer_worker.in_child() and peer_worker.the_run().workload == "cpu"
noop = broker.task(task_name="noop")(peer_worker.work if cpu else peer_worker.work_async)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def started(state: TaskiqState) -> None:
    peer_worker.booted()
