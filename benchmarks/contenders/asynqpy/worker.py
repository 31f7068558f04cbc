"""A worker on asynqpy.

    worker.py <redis URL> noop|sleep:<ms>|cpu:<iterations>|latency|hold <concurrency> <tasks>

Prints "ready", then, when so many tasks have run, {"seconds": ..., "latencies_ms": [...]}. With 0 tasks it runs until
SIGTERM. ``hold`` never ends a task, and prints "held" when it has as many as its concurrency.

``BENCH_PROCESSES`` starts so many processes, each with its own server and the concurrency. ``BENCH_QUEUES`` serves so
many queues. ``BENCH_UVLOOP`` runs on uvloop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from ctypes import Array, c_double
from multiprocessing.synchronize import Barrier
from typing import Any

from asynqpy import ActiveTask, Handler, Server

PROCESSES = int(os.environ.get("BENCH_PROCESSES", "1"))
QUEUES = int(os.environ.get("BENCH_QUEUES", "1"))

#: What one iteration of the CPU-bound workload hashes.
BLOCK = bytes(64)

#: Seconds between two looks of the first process at the counters of the others.
LOOK = 0.02


class Tally:
    """Counts the tasks of one process; ``done`` is called at the last of them."""

    def __init__(self, tasks: int, done: Callable[[], None]) -> None:
        self.first = 0.0
        self.last = 0.0
        self.ended = 0
        self.latencies_ms: list[float] = []
        self._tasks = tasks
        self._done = done

    def start(self) -> None:
        self.first = self.first or time.monotonic()

    def end(self) -> None:
        self.ended += 1
        if self.ended == self._tasks:
            self.last = time.monotonic()
            self._done()


class SharedTally(Tally):
    """One of several: its figures stand in an array that the first process reads."""

    def __init__(self, shared: Array[c_double], place: int) -> None:
        super().__init__(0, lambda: None)
        self._shared = shared
        self._at = 3 * place

    def start(self) -> None:
        if not self.first:
            self.first = self._shared[self._at] = time.monotonic()

    def end(self) -> None:
        self.ended += 1
        self._shared[self._at + 2] = time.monotonic()
        self._shared[self._at + 1] = self.ended


def handler_for(workload: str, tally: Tally, concurrency: int) -> Handler:
    """The handler of a workload; no more is in it than the workload needs."""
    kind, _, size = workload.partition(":")
    if kind == "noop":
        return noop(tally)
    if kind == "sleep":
        return sleeping(tally, int(size) / 1000)
    if kind == "cpu":
        return hashing(tally, int(size))
    if kind == "latency":
        return latency(tally)
    return holding(concurrency)


def noop(tally: Tally) -> Handler:
    async def handle(task: ActiveTask) -> None:
        tally.start()
        tally.end()

    return handle


def sleeping(tally: Tally, seconds: float) -> Handler:
    async def handle(task: ActiveTask) -> None:
        tally.start()
        await asyncio.sleep(seconds)
        tally.end()

    return handle


def hashing(tally: Tally, iterations: int) -> Handler:
    """A plain function: asynqpy runs it in a thread."""
    mutex = threading.Lock()

    def handle(task: ActiveTask) -> None:
        with mutex:
            tally.start()
        digest = BLOCK
        for _ in range(iterations):
            digest = hashlib.sha256(digest).digest()
        with mutex:
            tally.end()

    return handle


def latency(tally: Tally) -> Handler:
    async def handle(task: ActiveTask) -> None:
        tally.start()
        tally.latencies_ms.append((time.time_ns() - task.json()["t"]) / 1e6)
        tally.end()

    return handle


def holding(concurrency: int) -> Handler:
    held = 0

    async def handle(task: ActiveTask) -> None:
        nonlocal held
        held += 1
        if held == concurrency:
            print("held", flush=True)
        await asyncio.Event().wait()

    return handle


def server(url: str, concurrency: int) -> Server:
    queues = None if QUEUES == 1 else [f"q{n}" for n in range(QUEUES)]
    return Server(url, concurrency=concurrency, queues=queues)


async def serve(url: str, workload: str, concurrency: int, tasks: int) -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def all_ended() -> None:
        loop.call_soon_threadsafe(done.set)

    tally = Tally(tasks, all_ended)
    handler = handler_for(workload, tally, concurrency)
    loop.add_signal_handler(signal.SIGTERM, done.set)
    async with server(url, concurrency).running(handler):
        print("ready", flush=True)
        await done.wait()
        if tally.last:
            report(tally.first, tally.last, tally.latencies_ms)


def report(first: float, last: float, latencies_ms: list[float]) -> None:
    answer: dict[str, object] = {"seconds": last - first}
    if latencies_ms:
        answer["latencies_ms"] = [round(ms, 3) for ms in latencies_ms]
    print(json.dumps(answer), flush=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    """On the loop that was asked for."""
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def serve_several(url: str, workload: str, concurrency: int, tasks: int) -> None:
    """Start processes, let them begin at once, watch their counters, end them."""
    context = multiprocessing.get_context("spawn")
    shared = context.RawArray("d", 3 * PROCESSES)
    barrier = context.Barrier(PROCESSES + 1)
    given = (shared, barrier, url, workload, concurrency)
    children = [context.Process(target=be_one, args=(n, *given)) for n in range(PROCESSES)]
    for child in children:
        child.start()
    barrier.wait()
    print("ready", flush=True)
    while sum(shared[1::3]) < tasks or not tasks:
        time.sleep(LOOK)
    report(min(first for first in shared[0::3] if first), max(shared[2::3]), [])
    for child in children:
        child.terminate()
    for child in children:
        child.join()


def be_one(
    place: int, shared: Array[c_double], barrier: Barrier, url: str, workload: str, concurrency: int
) -> None:
    handler = handler_for(workload, SharedTally(shared, place), concurrency)
    barrier.wait()
    run(server(url, concurrency).run(handler))


def main(url: str, workload: str, concurrency: str, tasks: str) -> None:
    if PROCESSES > 1:
        serve_several(url, workload, int(concurrency), int(tasks))
    else:
        run(serve(url, workload, int(concurrency), int(tasks)))


if __name__ == "__main__":
    main(*sys.argv[1:])
