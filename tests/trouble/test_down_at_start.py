from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from tests.eventually import eventually
from tests.redis_proxy import RedisProxy
from tests.server.servers import serving
from tests.trouble.conftest import MortalRedis
from tests.trouble.voice import complaints, told
from tests.trouble.work import Work, enqueue


async def test_a_server_starts_says_so_once_and_works_when_redis_comes(
    mortal_redis: MortalRedis, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        RedisProxy(mortal_redis.port) as proxy,
        serving(proxy.url, work),
    ):
        await eventually(lambda: proxy.connections >= 5)
        (complaint,) = complaints(caplog)
        assert "is away" in complaint
        assert told(caplog, "the server starts without Redis and keeps trying") == 1
        mortal_redis.start()
        await enqueue(proxy.url, "a")
        await eventually(lambda: work.done == ["a"])
        assert told(caplog, "is back after") == 1
    assert len(complaints(caplog)) == 1


def a_worker(url: str, shutdown_timeout: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.server.worker", url, str(shutdown_timeout)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_a_worker_process_waits_for_redis_and_ends_when_told(
    mortal_redis: MortalRedis, eye: Redis
) -> None:
    with a_worker(mortal_redis.url, shutdown_timeout=5) as worker:
        try:
            assert worker.stdout is not None
            assert "is away" in worker.stdout.readline()
            mortal_redis.start()
            await enqueue(mortal_redis.url, "a")
            lines = iter(worker.stdout.readline, "")
            await eye.rpush("go:a", "")
            assert any("handling a" in line for line in lines)
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None, within=10)
        finally:
            worker.kill()
    assert worker.returncode == 0


async def test_a_worker_process_that_never_finds_redis_ends_in_time_when_told(
    mortal_redis: MortalRedis,
) -> None:
    with a_worker(mortal_redis.url, shutdown_timeout=1) as worker:
        try:
            assert worker.stdout is not None
            assert "is away" in worker.stdout.readline()
            assert "started" in "".join(worker.stdout.readline() for _ in range(2))
            os.kill(worker.pid, signal.SIGTERM)
            await eventually(lambda: worker.poll() is not None, within=1 + 8)
        finally:
            worker.kill()
    assert worker.returncode == 0
