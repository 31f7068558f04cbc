"""What the producers of all peers have in common: the ways to enqueue, and their timing.

    producer.py <redis URL> fill|sequential|concurrent|bulk <tasks>
    producer.py <redis URL> paced <rate> <seconds>
    producer.py <redis URL> single

Needs nothing but the standard library. ``drive`` is for clients of asyncio, ``drive_threads`` for those that block.
Both take what opens the client: a context manager that yields its ``Ways``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import peer_worker

#: Coroutines or threads that enqueue at the same time.
AT_ONCE = 50

#: Tasks of one call of the bulk way.
BATCH = 1_000

#: Exit status for a mode that the peer does not have.
NO_SUCH_MODE = 3


@dataclass
class Ways:
    """How a peer enqueues. ``send``: one task; ``ping``: a command that opens a connection; ``bulk``: many at once."""

    send: Callable[[int], Any]
    ping: Callable[[], Any]
    bulk: Callable[[Sequence[int]], Any] | None = None


def _batches(tasks: int) -> Iterable[Sequence[int]]:
    edges = [*range(0, tasks, BATCH), tasks]
    return (range(start, end) for start, end in pairwise(edges))


def _mode(ways: Ways) -> str:
    mode = sys.argv[2]
    if mode == "bulk" and ways.bulk is None:
        sys.exit(NO_SUCH_MODE)
    if mode == "fill":
        return "bulk" if ways.bulk else "concurrent"
    return mode


def _moments(rate: float, seconds: float) -> Iterable[int]:
    """When the tasks of ``paced`` are due, ns since the epoch."""
    start, gap = time.time_ns() + 100_000_000, 1e9 / rate
    return (start + round(n * gap) for n in range(round(rate * seconds)))


def _tell(started: float) -> None:
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def _sent() -> None:
    print("sent", flush=True)


def drive(open_client: Callable[[str], AbstractAsyncContextManager[Ways]]) -> None:
    async def main() -> None:
        async with open_client(sys.argv[1]) as ways:
            await asyncio.gather(*(ways.ping() for _ in range(AT_ONCE)))
            await _enqueue(ways, _mode(ways))

    peer_worker.run(main)


async def _enqueue(ways: Ways, mode: str) -> None:
    if mode == "paced":
        await _paced(ways, *map(float, sys.argv[-2:]))
        return
    if mode == "single":
        async for _ in _lines():
            await ways.send(time.time_ns())
            _sent()
        return
    started = time.perf_counter()
    await _WAYS[mode](ways, int(sys.argv[3]))
    _tell(started)


async def _lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def _sequential(ways: Ways, tasks: int) -> None:
    for n in range(tasks):
        await ways.send(n)


async def _concurrent(ways: Ways, tasks: int) -> None:
    numbers = iter(range(tasks))

    async def one_of_many() -> None:
        for n in numbers:
            await ways.send(n)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_of_many())


async def _bulk(ways: Ways, tasks: int) -> None:
    assert ways.bulk is not None
    for batch in _batches(tasks):
        await ways.bulk(batch)


_WAYS: dict[str, Callable[[Ways, int], Awaitable[None]]] = {
    "sequential": _sequential,
    "concurrent": _concurrent,
    "bulk": _bulk,
}


async def _paced(ways: Ways, rate: float, seconds: float) -> None:
    """Open loop: each is sent when its time has come, however long the others take."""
    async with asyncio.TaskGroup() as group:
        for due in _moments(rate, seconds):
            await asyncio.sleep(max(0.0, (due - time.time_ns()) / 1e9))
            group.create_task(ways.send(due))


def drive_threads(open_client: Callable[[str], AbstractContextManager[Ways]]) -> None:
    with open_client(sys.argv[1]) as ways, ThreadPoolExecutor(AT_ONCE) as threads:
        mode = _mode(ways)
        if mode == "concurrent" and sys.argv[2] == "fill":
            mode = "sequential"  # threads of one interpreter fill no faster
        ways.ping()
        if mode in {"concurrent", "paced"}:
            list(threads.map(lambda _: ways.ping(), range(AT_ONCE)))
        _enqueue_in_threads(ways, mode, threads)


def _enqueue_in_threads(ways: Ways, mode: str, threads: ThreadPoolExecutor) -> None:
    if mode == "paced":
        _pace_threads(ways, threads, *map(float, sys.argv[-2:]))
        return
    if mode == "single":
        for _ in sys.stdin:
            ways.send(time.time_ns())
            _sent()
        return
    tasks = int(sys.argv[3])
    started = time.perf_counter()
    match mode:
        case "sequential":
            for n in range(tasks):
                ways.send(n)
        case "concurrent":
            list(threads.map(lambda first: _every_50th(ways, first, tasks), range(AT_ONCE)))
        case "bulk":
            assert ways.bulk is not None
            for batch in _batches(tasks):
                ways.bulk(batch)
    _tell(started)


def _every_50th(ways: Ways, first: int, tasks: int) -> None:
    for n in range(first, tasks, AT_ONCE):
        ways.send(n)


def _pace_threads(ways: Ways, threads: ThreadPoolExecutor, rate: float, seconds: float) -> None:
    sending = []
    for due in _moments(rate, seconds):
        time.sleep(max(0.0, (due - time.time_ns()) / 1e9))
        sending.append(threads.submit(ways.send, due))
    for one in sending:
        one.result()
