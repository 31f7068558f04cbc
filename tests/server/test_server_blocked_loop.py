from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.server.server import Server
from asynqpy.task import ActiveTask
from tests.eventually import eventually
from tests.redis_state import counter, invariants, message, messages, seed_pending
from tests.server.servers import QUICK
from tests.topologies.common import CommonRedis

LEASE = "asynq:{default}:lease"


class WatchfulServer(Server):
    _heartbeat_interval = 0.2
    _blocked_after = 0.5


class LeaseWatch(threading.Thread):
    """Notes each second up to which the lease of t1 was extended, from outside of any event loop."""

    def __init__(self, redis: CommonRedis) -> None:
        super().__init__()
        self._redis = redis
        self._ended = threading.Event()
        self.seen: set[int] = set()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            score = self._redis.ask("ZSCORE", LEASE, "t1")
            if score is not None:
                self.seen.add(int(score))

    def end(self) -> None:
        self._ended.set()
        self.join()


async def test_handler_that_blocks_the_loop_keeps_its_lease_and_is_named_in_the_log(
    redis_url: str, redis: Redis, redis_server: CommonRedis, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LeaseWatch(redis_server)
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


class Handling:
    """A handler that blocks its loop while another's outcome is unwritten, and a delivery unread."""

    #: Seconds; longer than a lease.
    blocks_for = 4.5

    def __init__(self, redis: CommonRedis) -> None:
        self._redis = redis
        self.server: Server | None = None
        self.blocks = threading.Event()
        self.handled: list[str] = []

    async def __call__(self, task: ActiveTask) -> None:
        self.handled.append(task.id)
        if task.id == "t1":
            await very_soon(self._unread)
        if task.id == "t2":
            await very_soon(lambda: self._unread() and self._has_ended("t1"))
            self.blocks.set()
            time.sleep(self.blocks_for)  # noqa: ASYNC251 - the fault that is shown

    def _unread(self) -> set[str]:
        """What Redis has given out to a dequeue that is still under way."""
        assert self.server is not None
        if not self.server._runs.granted():
            return set()
        given_out = {task_id.decode() for task_id in self._redis.ask("ZRANGE", LEASE, "0", "-1")}
        return given_out - {lease.id for lease in self.server._runs.held()}

    def _has_ended(self, task_id: str) -> bool:
        """Whether the handler has, and the outcome waits to be written."""
        assert self.server is not None
        runs = self.server._runs
        return task_id not in {run.message.id for run in runs} and any(
            lease.id == task_id for lease in runs.held()
        )


async def very_soon(predicate: Callable[[], object]) -> None:
    """Wait for what holds for a moment only."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


class SecondServer(threading.Thread):
    """Works off the same queue on a loop of its own once the first one is blocked, and recovers without delay."""

    def __init__(self, url: str, handling: Handling, options: dict[str, Any]) -> None:
        super().__init__()
        self._url = url
        self._handling = handling
        self._options = options
        self._ended = threading.Event()

    def run(self) -> None:
        self._handling.blocks.wait(10)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with WatchfulServer(self._url, **self._options).running(self._note):
            await eventually(self._ended.is_set, within=20)

    async def _note(self, task: ActiveTask) -> None:
        self._handling.handled.append(task.id)

    def end(self) -> None:
        self._ended.set()
        self.join()


async def test_what_has_ended_and_what_is_being_given_out_survive_a_blocked_loop(
    redis_url: str, redis: Redis, redis_server: CommonRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.broker.broker.LEASE_SECONDS", 3)
    for name, seconds in {
        "watch.LEASE_SECONDS": 3,
        "watch.SILENT_AFTER": 3,
        "watch._LAPSED_AFTER": 0,
        "watch._GONE_AFTER": 3,
        "watch._PATIENCE": 0,
        "recoverer._INTERVAL": 0.1,
        "recoverer._WATCHING": 0.1,
    }.items():
        monkeypatch.setattr(f"asynqpy.server.{name}", seconds)
    told: list[object] = []
    options: dict[str, Any] = {
        **QUICK,
        "concurrency": 3,
        "retry_delay": lambda *_: 0.1,
        "error_handler": lambda *about: told.append(about),
    }
    handling = Handling(redis_server)
    second = SecondServer(redis_url, handling, options)
    ids = [f"t{n}" for n in range(8)]
    await seed_pending(redis, *messages(len(ids)))
    second.start()
    try:
        first = handling.server = WatchfulServer(redis_url, **options)
        async with first.running(handling):
            await eventually(lambda: counter(redis, "processed"), within=15)
            await eventually(lambda: is_empty(redis), within=15)
    finally:
        second.end()
    assert handling.blocks.is_set()
    assert sorted(handling.handled) == ids
    assert (await counter(redis, "processed"), await counter(redis, "failed")) == (len(ids), 0)
    assert told == []
    assert await invariants(redis) == []


async def is_empty(redis: Redis) -> bool:
    """Whether no task is left, in whatever state."""
    return not await redis.keys("asynq:{default}:t:*")
