from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from asynqpy.server import signals
from asynqpy.server.signals import Relay, obeying_signals
from tests.eventually import eventually
from tests.redis_state import (
    ask,
    counter,
    dump,
    invariants,
    listed,
    message,
    messages,
    seed_pending,
    states,
    stored_message,
)

ROOT = Path(__file__).parents[2]


class Worker:
    """The process of ``worker.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._log = ""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._log += line.decode()

    async def says(self, text: str) -> None:
        await eventually(lambda: text in self._log, within=15)

    async def handles(self, *task_ids: str) -> None:
        for task_id in task_ids:
            await self.says(f"handling {task_id}\n")

    def send(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    async def exit_status(self, within: float) -> int:
        async with asyncio.timeout(within):
            await self._reader
            return await self._process.wait()

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._reader
        await self._process.wait()


@asynccontextmanager
async def working(url: str, *, shutdown_timeout: float) -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.server.worker", url, str(shutdown_timeout)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    worker = Worker(process)
    try:
        await worker.says("started on")
        yield worker
    finally:
        await worker.kill()


async def let_go(redis: Redis, task_id: str) -> None:
    await ask(redis, "LPUSH", f"go:{task_id}", "go")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_worker_in_time_and_hands_its_tasks_back(
    redis_url: str, redis: Redis, signum: signal.Signals
) -> None:
    await seed_pending(redis, *messages(3))
    async with working(redis_url, shutdown_timeout=0.3) as worker:
        await worker.handles("t0", "t1")
        worker.send(signum)
        await worker.says("shuts down")
        assert await worker.exit_status(within=0.3 + 2) == 0
    assert sorted(await listed(redis, "pending")) == ["t0", "t1", "t2"]
    assert [(await stored_message(redis, f"t{n}")).retried for n in range(3)] == [0, 0, 0]
    assert await invariants(redis) == []
    assert await dump(redis, "asynq:servers*") == {}


async def test_handlers_may_finish_within_the_timeout(redis_url: str, redis: Redis) -> None:
    await seed_pending(redis, *messages(3))
    async with working(redis_url, shutdown_timeout=60) as worker:
        await worker.handles("t0", "t1")
        worker.send(signal.SIGTERM)
        await worker.says("shuts down")
        await let_go(redis, "t0")
        await let_go(redis, "t1")
        assert await worker.exit_status(within=10) == 0
    assert await states(redis, "t0", "t1", "t2") == ["", "", "pending"]


async def test_sigtstp_stops_the_fetching_while_running_tasks_go_on(
    redis_url: str, redis: Redis
) -> None:
    await seed_pending(redis, message("t0"))
    async with working(redis_url, shutdown_timeout=0.3) as worker:
        await worker.handles("t0")
        worker.send(signal.SIGTSTP)
        await worker.says("takes no more tasks")
        await seed_pending(redis, message("t1"))
        await let_go(redis, "t0")
        await eventually(lambda: counter(redis, "processed"))
        worker.send(signal.SIGTERM)
        assert await worker.exit_status(within=10) == 0
    assert await states(redis, "t0", "t1") == ["", "pending"]


async def test_second_signal_aborts_the_handlers_at_once(redis_url: str, redis: Redis) -> None:
    await seed_pending(redis, message())
    async with working(redis_url, shutdown_timeout=3600) as worker:
        await worker.handles("t1")
        worker.send(signal.SIGTERM)
        await worker.says("shuts down")
        worker.send(signal.SIGTERM)
        assert await worker.exit_status(within=2) == 0
    assert await listed(redis, "pending") == ["t1"]
    assert (await stored_message(redis, "t1")).retried == 0
    assert await invariants(redis) == []


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Relay:
    """One that has relayed nothing."""
    relay = Relay()
    monkeypatch.setattr(signals, "relay", relay)
    return relay


class Terminations:
    """Counts them, and sends signals one by one."""

    def __init__(self, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
        self._relay = relay
        self._caplog = caplog
        self.count = 0

    def terminate(self) -> None:
        self.count += 1

    async def after(self, source: str) -> int:
        """How many there have been once a signal of the supervisor, or from elsewhere, was received."""
        before = self._received()
        if source == "supervisor":
            self._relay.stop()
        else:
            os.kill(os.getpid(), signal.SIGINT if source == "SIGINT" else signal.SIGTERM)
        await eventually(lambda: self._received() > before)
        await asyncio.sleep(0)
        return self.count

    def _received(self) -> int:
        return sum(text.startswith("received ") for text in self._caplog.messages)


@pytest.mark.parametrize(
    ("sources", "counts"),
    [
        (["elsewhere", "elsewhere"], [1, 2]),
        (["supervisor", "supervisor"], [1, 2]),
        (["elsewhere", "supervisor"], [1, 1]),
        (["supervisor", "elsewhere"], [1, 1]),
        (["SIGINT", "supervisor"], [1, 1]),
        (["elsewhere", "supervisor", "elsewhere"], [1, 1, 2]),
        (["elsewhere", "supervisor", "supervisor"], [1, 1, 2]),
        (["supervisor", "elsewhere", "elsewhere", "supervisor"], [1, 1, 2, 2]),
    ],
)
async def test_signal_of_the_supervisor_and_one_from_elsewhere_are_one(
    sources: list[str], counts: list[int], relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asynqpy.server")
    terminations = Terminations(relay, caplog)
    async with obeying_signals(terminate=terminations.terminate, pause=lambda: asyncio.sleep(0)):
        assert [await terminations.after(source) for source in sources] == counts


async def test_second_signal_is_obeyed_after_the_first_has_taken_effect(relay: Relay) -> None:
    told, effects = asyncio.Event(), list[str]()

    async def obey_the_first() -> None:
        await told.wait()
        effects.append("first")

    def terminate() -> None:
        effects.append("second" if told.is_set() else "told")
        told.set()

    obeying = asyncio.create_task(obey_the_first())
    async with obeying_signals(terminate=terminate, pause=lambda: asyncio.sleep(0)):
        await asyncio.sleep(0)
        # Both wait for the loop.
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: len(effects) == 3)
    assert effects == ["told", "first", "second"]
    await obeying
