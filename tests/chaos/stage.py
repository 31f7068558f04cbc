"""The stage on which a scenario plays: a Redis of its own, a fleet, a producer, the ledger, a line of progress."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Protocol

from tests.chaos.books import Books, close_books
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.journal import Journal
from tests.chaos.ledger import Ledger
from tests.chaos.producer import Order, Producer
from tests.chaos.progress import Progress
from tests.chaos.scenario import Settings
from tests.chaos.verifier import drain, verify
from tests.redis_process import start_redis

_TICK = 0.25

#: Seconds after which a fleet that has not come up will not.
_READY = 60.0

#: Seconds that a drain may take. Go misses a dead worker after up to two minutes, and then waits for a retry, which may
#: meet the next one.
_DRAIN = {"asynqpy": 120.0, "go": 420.0}


class Topology(Protocol):
    """A Redis of one process or of many, stopped at the end of the ``with``."""

    @property
    def url(self) -> str: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Stage:
    """What a scenario has at hand. Made by ``staged``."""

    def __init__(self, settings: Settings, redis: Topology, **config: Any) -> None:
        self.settings = settings
        self.redis = redis
        self.random = random.Random(settings.seed)
        self.journal = Journal(settings.folder, "harness")
        self.ledger = Ledger(settings.folder)
        self.queues: Mapping[str, int] = config.get("queues") or {"default": 1}
        base = {
            "redis": redis.url,
            "folder": str(settings.folder),
            "concurrency": 20,
            "queues": dict(self.queues),
            "shutdown_timeout": 8.0,
            "skew": 0.0,
            "options": {},
        }
        self.fleet = Fleet(
            settings.engine, base | config, settings.folder, self.journal, self.ledger
        )
        self.started = time.monotonic()
        self.started_ns = time.time_ns()
        self.phase = "starts"
        #: When the load began, in seconds since the start.
        self.started_load = 0.0
        #: Whether workers that die by themselves are replaced.
        self.replaces_dead = False
        #: (s, tasks acknowledged, tasks finished), sampled while it runs.
        self.samples: list[tuple[float, int, int]] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def producer(self, url: str | None = None, **options: Any) -> Producer:
        return Producer(url or self.redis.url, self.journal, **options)

    async def produce(
        self, orders: Iterable[Order], rate: float | None = None, url: str | None = None
    ) -> None:
        self.phase, self.started_load = "under load", self.elapsed
        await self.producer(url).run(orders, rate)

    def line(self) -> str:
        ledger = self.ledger
        return (
            f"{self.settings.scenario} ({self.settings.engine}) {self.elapsed:5.0f} s: {self.phase}, "
            f"{ledger.finished:,} of {ledger.acked:,} tasks done, {len(ledger.faults)} faults, "
            f"{len(self.fleet.alive)} workers"
        )

    async def until_drained(self, within: float = 30.0) -> None:
        """Wait until no task has anything before it; ``TimeoutError`` when it takes longer."""
        if await drain(self.redis.url, list(self.queues), within) is None:
            raise TimeoutError(f"not drained within {within:g} s")

    async def close_books(self, within: float | None = None, url: str | None = None) -> Books:
        """Let everything drain, end the fleet, verify Redis and balance the ledger.

        What has not drained ``within`` so many seconds is stuck; by default as long as the engine may need.
        """
        self.phase = "drains"
        within = _DRAIN[self.settings.engine] if within is None else within
        url, queues = url or self.redis.url, list(self.queues)
        seconds = await drain(url, queues, within)
        self.phase, self.replaces_dead = "ends", False
        await self.fleet.stop()
        self.phase = "is verified"
        verdict = await verify(url, queues)
        verdict.drained, verdict.drain_seconds = seconds is not None, seconds or within
        self.ledger.update()
        return close_books(self, verdict)

    async def some_worker(self) -> Worker:
        """One of those that take tasks, at random."""
        return self.random.choice(await self.ready_workers())

    async def ready_workers(self) -> list[Worker]:
        """Those that take tasks, oldest first, once all but one do: a slow machine gets the time to start them."""
        async with asyncio.timeout(_READY):
            while True:
                self.ledger.update()
                ready = [worker for worker in self.fleet.alive if worker.pid in self.ledger.ready]
                if ready and len(ready) >= len(self.fleet.alive) - 1:
                    return ready
                await asyncio.sleep(0.05)

    async def until_started(
        self, task_ids: Iterable[str], *, runs: int = 1, within: float = 30.0
    ) -> None:
        """Wait until each of these tasks has started so many times; ``TimeoutError`` when they have not."""
        waiting = list(task_ids)
        tasks = self.ledger.tasks
        await self._until(lambda: all(len(tasks[it].runs) >= runs for it in waiting), within)

    async def until_busy(self, worker: Worker, runs: int, within: float = 30.0) -> None:
        """Wait until so many tasks run at this worker; ``TimeoutError`` when they do not."""
        await self._until(lambda: self.ledger.running(worker.pid) >= runs, within)

    async def _until(self, is_so: Callable[[], bool], within: float) -> None:
        """Wait until the ledger says so; ``TimeoutError`` when it does not."""
        async with asyncio.timeout(within):
            while True:
                self.ledger.update()
                if is_so():
                    return
                await asyncio.sleep(0.05)

    async def at_intervals(self, number: int) -> AsyncIterator[int]:
        """So many instants, evenly over the time of the load: 0, 1, 2 ..."""
        pause = self.settings.seconds / (number + 1)
        for place in range(number):
            await asyncio.sleep(self.started_load + (place + 1) * pause - self.elapsed)
            yield place

    async def watch(self, progress: Progress) -> None:
        while True:
            self.ledger.update()
            self.samples.append((self.elapsed, self.ledger.acked, self.ledger.finished))
            if self.replaces_dead and (dead := self.fleet.bury()):
                self.fleet.start(len(dead))
            progress.show()
            await asyncio.sleep(_TICK)


@asynccontextmanager
async def staged(
    settings: Settings, *redis_args: str, redis: Topology | None = None, **config: Any
) -> AsyncIterator[Stage]:
    """A stage with a fresh Redis (``redis_args`` are options of it), unless one is given.

    ``config`` is laid over that of the workers. Whatever happens, no process is left behind.
    """
    server = redis or start_redis(*redis_args)
    with server:
        stage = Stage(settings, server, **config)
        with Progress(stage.line) as progress:
            watching = asyncio.create_task(stage.watch(progress))
            try:
                yield stage
                if watching.done():
                    watching.result()  # it failed: what was seen is not all
            finally:
                watching.cancel()
                stage.fleet.kill_all()
                stage.journal.close()
