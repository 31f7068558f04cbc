"""Redis dies under load and comes back from its append-only file: what it had acknowledged must still be there.

With ``appendfsync always`` nothing may be lost. With ``everysec`` the file may lack the last second when the machine
dies with Redis: ``redis-power-cut`` plays that by cutting the file back to what it held a second before. What that
costs is counted, and no breach.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.books import Books
from tests.chaos.engines import PATIENCE
from tests.chaos.journal import EVERYBODY
from tests.chaos.producer import Order
from tests.chaos.scenario import Result, Scenario, Settings, Size
from tests.chaos.stage import Stage, staged
from tests.redis_process import RedisProcess, free_port, start_redis

WORKERS = 2

#: Seconds that Redis stays away.
AWAY = (0.2, 1.5)

#: Seconds of writes that a power cut takes with it.
UNSYNCED = 1.0

_SAMPLE = 0.05


class MortalRedis:
    """A Redis with an append-only file that can be killed, and started again on its port with what is on the disk."""

    def __init__(self, folder: Path, fsync: str) -> None:
        self._folder = folder
        self._arguments = ("--appendonly", "yes", "--appendfsync", fsync)
        self._port = free_port()
        #: (loop time, path, bytes in it) of the file that grows, for the last while.
        self._sizes: deque[tuple[float, Path, int]] = deque(maxlen=200)
        folder.mkdir()
        self.process = self._start()

    def _start(self) -> RedisProcess:
        return start_redis(*self._arguments, port=self._port, cwd=self._folder)

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        self.process = self._start()

    async def sample(self) -> None:
        """Note how long the file is, until cancelled."""
        while True:
            growing = max(self._folder.glob("appendonlydir/*.incr.aof"), default=None)
            if growing is not None:
                now = asyncio.get_running_loop().time()
                self._sizes.append((now, growing, growing.stat().st_size))
            await asyncio.sleep(_SAMPLE)

    def cut_file(self, seconds: float) -> int:
        """Take back what was written in the last seconds before the kill; answers how many bytes."""
        until = asyncio.get_running_loop().time() - seconds
        path, size = next((path, size) for at, path, size in reversed(self._sizes) if at <= until)
        cut = path.stat().st_size - size
        with path.open("r+b") as file:
            file.truncate(size)
        return cut


def orders(stage: Stage) -> Iterator[Order]:
    for number in range(stage.settings.tasks):
        milliseconds = (200, 1_500) if number % 8 == 0 else (5, 50)
        yield Order(f"a{number}", "sleep", {"ms": stage.random.randint(*milliseconds)})


async def run(
    settings: Settings,
    fsync: str,
    concurrency: int,
    kill: Callable[[MortalRedis], int],
    check: Callable[[Books], None],
) -> Result:
    mortal = MortalRedis(settings.folder / "redis", fsync)
    cut = 0
    try:
        async with staged(settings, redis=mortal.process, concurrency=concurrency) as stage:
            sampling = asyncio.create_task(mortal.sample())
            await stage.fleet.ready(stage.fleet.start(WORKERS))
            async with asyncio.TaskGroup() as group:
                group.create_task(stage.produce(orders(stage), settings.tasks / settings.seconds))
                async for _ in stage.at_intervals(settings.faults):
                    cut += await _die(stage, mortal, kill)
            sampling.cancel()
            books = await stage.close_books(within=PATIENCE[settings.engine])
    finally:
        mortal.kill()
    books.result.figures["bytes_cut"] = cut
    books.demand_none(stage.fleet.deaths, "workers died because Redis did")
    check(books)
    return books.result


async def _die(stage: Stage, mortal: MortalRedis, kill: Callable[[MortalRedis], int]) -> int:
    stage.journal.write("fault", extra="redis-kill", pid=EVERYBODY)
    cut = kill(mortal)
    await asyncio.sleep(stage.random.uniform(*AWAY))
    mortal.restart()
    stage.journal.write("mended", extra="redis-kill", pid=EVERYBODY)
    return cut


def _kill(mortal: MortalRedis) -> int:
    mortal.kill()
    return 0


def _cut_power(mortal: MortalRedis) -> int:
    mortal.kill()
    return mortal.cut_file(UNSYNCED)


def _check_kept(books: Books) -> None:
    books.demand_none(books.accounts.burned, "tasks with retries burned")


def _check_counted(books: Books) -> None:
    """What was acknowledged or settled in the second that is gone is lost, or runs again: that is the deal."""
    figures, result = books.result.figures, books.result
    result.breaches = [
        b for b in result.breaches if " tasks lost" not in b and " runs again " not in b
    ]
    result.notes.append(
        f"{figures['lost']:,} of {figures['acknowledged']:,} acknowledged tasks lost in "
        f"{figures['faults']} power cuts, {figures['finished_run_again']:,} finished ones run again"
    )


_LONG = Size(seconds=240, tasks=60_000, faults=30)


def _scenario(
    name: str,
    promises: str,
    fsync: str,
    ci: Size,
    *,
    long: Size = _LONG,
    concurrency: int = 50,
    kill: Callable[[MortalRedis], int] = _kill,
    check: Callable[[Books], None] = _check_kept,
) -> Scenario:
    play: Callable[[Settings], Coroutine[Any, Any, Result]] = partial(
        run, fsync=fsync, concurrency=concurrency, kill=kill, check=check
    )
    return Scenario(name, promises, play, ci, long, engines=("asynqpy", "go"))


SCENARIOS = (
    _scenario(
        "redis-kills",
        "Redis killed and restarted, appendfsync always: nothing lost, no retry burned",
        "always",
        Size(seconds=15, tasks=3_000, faults=4),
    ),
    _scenario(
        "redis-kills-everysec",
        "the same with appendfsync everysec: a kill of Redis alone takes nothing that the kernel has",
        "everysec",
        Size(seconds=10, tasks=2_000, faults=2),
    ),
    _scenario(
        "redis-power-cut",
        "everysec, and the last second of the file gone: losses are counted, nothing is stuck",
        "everysec",
        Size(seconds=10, tasks=2_000, faults=2),
        long=Size(seconds=240, tasks=12_000, faults=30),
        concurrency=8,  # too few for the load: what waits in pending is what can be lost
        kill=_cut_power,
        check=_check_counted,
    ),
)
