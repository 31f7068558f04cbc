from __future__ import annotations

import threading
import time

import pytest
import redis as sync_redis
from redis.asyncio import Redis

from asynqpy.server.server import Server
from asynqpy.task import ActiveTask
from tests.eventually import eventually
from tests.redis_process import RedisProcess
from tests.redis_state import counter, message, seed_pending
from tests.server.servers import QUICK

LEASE = "asynq:{default}:lease"


class WatchfulServer(Server):
    _heartbeat_interval = 0.2
    _blocked_after = 0.5


class LeaseWatch(threading.Thread):
    """Notes each second up to which the lease of t1 was extended, from outside of any event loop."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._ended = threading.Event()
        self.seen: set[int] = set()

    def run(self) -> None:
        with sync_redis.Redis(port=self._port, protocol=2) as client:
            while not self._ended.wait(0.02):
                score = client.zscore(LEASE, "t1")
                if score is not None:
                    self.seen.add(int(score))

    def end(self) -> None:
        self._ended.set()
        self.join()


async def test_handler_that_blocks_the_loop_keeps_its_lease_and_is_named_in_the_log(
    redis_url: str, redis: Redis, redis_server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LeaseWatch(redis_server.port)
    handled = []

    async def blocks_everything(task: ActiveTask) -> None:
        handled.append(task.id)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.1)  # noqa: ASYNC251 - the fault that is shown
            if len(watch.seen) >= 3 and "has been blocked" in caplog.text:
                break

    await seed_pending(redis, message())
    watch.start()
    async with WatchfulServer(redis_url, **QUICK).running(blocks_everything):  # type: ignore[arg-type]
        await eventually(lambda: counter(redis, "processed"), within=15)
    watch.end()
    assert len(watch.seen) >= 3
    assert handled == ["t1"]
    assert await counter(redis, "processed") == 1
    report = next(r.getMessage() for r in caplog.records if "has been blocked" in r.getMessage())
    assert "by asynqpy:task:email:welcome:t1" in report
    assert "in blocks_everything" in report
    assert "time.sleep(0.1)" in report
