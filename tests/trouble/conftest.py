from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.redis_process import RedisProcess, free_port, start_redis
from tests.redis_proxy import RedisProxy
from tests.trouble.work import Work


class MortalRedis:
    """A Redis that can be killed, and started again on the same port with the data it has on disk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: RedisProcess | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> RedisProcess:
        assert self._process is not None
        return self._process

    def start(self, *args: str) -> None:
        self._process = start_redis(*args, port=self.port, cwd=self._folder)

    def kill(self) -> None:
        self.process.kill()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[MortalRedis]:
    mortal = MortalRedis(tmp_path)
    yield mortal
    mortal.stop()


@pytest.fixture
async def eye(mortal_redis: MortalRedis) -> AsyncIterator[Redis]:
    """A client of its own that shows what is in the mortal Redis."""
    async with Redis.from_url(mortal_redis.url, protocol=2) as client:
        yield client


@pytest.fixture
async def proxy(redis_server: RedisProcess, redis_url: str) -> AsyncIterator[RedisProxy]:
    """Before a Redis that is empty."""
    async with RedisProxy.before(redis_server) as proxy:
        yield proxy


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is read from INFO on; asyncio's debug mode complains of slow callbacks on a busy machine."""
    caplog.set_level(logging.INFO, "asynqpy")
    monkeypatch.setattr(logging.getLogger("asyncio"), "level", logging.ERROR)
