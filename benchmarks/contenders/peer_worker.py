"""What the workers of all peers have in common: their arguments, the work of a task, the count, the report.

    worker.py <redis URL> noop|sleep:<ms>|cpu:<iterations>|latency <concurrency> <tasks>

Needs nothing but the standard library, for each peer has a virtualenv of its own. Workers that are one asyncio process
count in memory (``Tally``). The others are started by the peer's own command line (``supervise``), and each task adds a
record to a journal (``work``): a file, for a task may run in any of several processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import select
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

CORES = os.cpu_count() or 1

#: A task's start and end (ns since the epoch), and its start less its payload's number (ns).
RECORD = struct.Struct("<qqq")
Record = tuple[int, int, int]

#: The environment of a child: the arguments of worker.py, and where its tasks are recorded.
RUN, JOURNAL = "BENCH_RUN", "BENCH_JOURNAL"

#: Seconds between two looks at the journal.
_LOOK_EVERY = 0.02

#: Seconds that a worker has to stop before it is told again.
_PATIENCE = 5.0


class Run(NamedTuple):
    """The arguments. ``amount``: ms of ``sleep``, iterations of ``cpu``; ``tasks``: 0 for no end."""

    url: str
    workload: str
    amount: int
    concurrency: int
    tasks: int


@cache
def the_run() -> Run:
    """What this worker was asked for; in a child of it too."""
    words = os.environ[RUN].split() if in_child() else sys.argv[1:]
    url, workload, concurrency, tasks = words
    name, _, amount = workload.partition(":")
    return Run(url, name, int(amount or 0), int(concurrency), int(tasks))


def redis_url() -> str:
    """Of the worker's run, or the producer's."""
    return the_run().url if in_child() else sys.argv[1]


def in_child() -> bool:
    """Whether this is a peer's own worker process, not worker.py or producer.py."""
    return RUN in os.environ


def burn(iterations: int) -> None:
    """The work of ``cpu``: a chain of SHA-256, of blocks so small that Python holds the GIL meanwhile."""
    digest = bytes(64)
    for _ in range(iterations):
        digest = hashlib.sha256(digest).digest()


def ready() -> None:
    print("ready", flush=True)


def report(seconds: float, latencies_ms: Iterable[float]) -> None:
    answer: dict[str, Any] = {"seconds": seconds}
    if the_run().workload == "latency":
        answer["latencies_ms"] = list(latencies_ms)
    print(json.dumps(answer), flush=True)


# Workers that are this process.


class Tally:
    """Counts the tasks of the running loop; ``work`` is what a task does, CPU work in a pool of processes."""

    def __init__(self) -> None:
        self._run = the_run()
        self._loop = asyncio.get_running_loop()
        self._wait = self._waiting()
        self._began = 0.0
        self._seconds = 0.0
        self._ended = 0
        self._latencies_ms: list[float] = []
        self.done = asyncio.Event()

    def _waiting(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        match self._run.workload:
            case "sleep":
                return partial(asyncio.sleep, self._run.amount / 1e3)
            case "cpu":
                return partial(self._burn_elsewhere, ProcessPoolExecutor(CORES))
        return None

    async def _burn_elsewhere(self, processes: ProcessPoolExecutor) -> None:
        await self._loop.run_in_executor(processes, burn, self._run.amount)

    async def work(self, n: int) -> None:
        self.begin()
        if self._wait is not None:
            await self._wait()
        elif self._run.workload == "latency":
            self._latencies_ms.append((time.time_ns() - n) / 1e6)
        self.end()

    def work_in_thread(self, n: int) -> None:
        """``work`` of ``cpu`` for a peer that runs plain functions in threads of its own."""
        self.begin()
        burn(self._run.amount)
        self._loop.call_soon_threadsafe(self.end)

    def begin(self) -> None:
        self._began = self._began or time.perf_counter()

    def end(self) -> None:
        self._ended += 1
        if self._ended == self._run.tasks:
            self._seconds = time.perf_counter() - self._began
            self.done.set()

    def tell(self) -> None:
        report(self._seconds, self._latencies_ms)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """``asyncio.run``, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


async def serve(tally: Tally, worker: Coroutine[Any, Any, Any]) -> None:
    """Run a worker until its tasks have run, which are then reported, or until a signal ended it."""
    working = asyncio.ensure_future(worker)
    finished = asyncio.ensure_future(tally.done.wait())
    await asyncio.wait({working, finished}, return_when=asyncio.FIRST_COMPLETED)
    if finished.done():
        tally.tell()
    finished.cancel()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


# Workers that are children of this process.


@cache
def _journal() -> int:
    return os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND)


@cache
def _doing() -> Callable[[], None]:
    run = the_run()
    match run.workload:
        case "sleep":
            return partial(time.sleep, run.amount / 1e3)
        case "cpu":
            return partial(burn, run.amount)
    return lambda: None


def work(n: int) -> None:
    """What a task does, and its record."""
    began = time.time_ns()
    _doing()()
    os.write(_journal(), RECORD.pack(began, time.time_ns(), began - n))


async def work_async(n: int) -> None:
    """The same for a task that is a coroutine."""
    began = time.time_ns()
    if the_run().workload == "sleep":
        await asyncio.sleep(the_run().amount / 1e3)
    os.write(_journal(), RECORD.pack(began, time.time_ns(), began - n))


def booted() -> None:
    """Called in each process, thread or greenlet that is about to consume: an empty record."""
    os.write(_journal(), RECORD.pack(0, 0, 0))


def supervise(command: Sequence[str], *, boots: int = 1) -> NoReturn:
    """Become a peer's worker, after putting aside a process that reports its tasks and then stops it.

    That process is no child of the worker, so that it does not count to its memory. The worker is ready when ``booted``
    was called ``boots`` times. What it prints goes to stderr.
    """
    if JOURNAL not in os.environ:
        os.environ[JOURNAL] = tempfile.mkstemp(prefix="journal-")[1]
    os.environ[RUN] = " ".join(sys.argv[1:])
    folder = Path(sys.argv[0]).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder.parent)])
    worker, (alive, held) = os.getpid(), os.pipe()
    if (first := os.fork()) == 0:
        if os.fork() == 0:
            os.close(held)
            _watch(worker, alive, boots)
        os._exit(0)
    os.waitpid(first, 0)
    os.set_inheritable(held, True)  # it closes when the worker ends
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, *command])


def _watch(worker: int, alive: int, boots: int) -> None:
    """Tell "ready" and the report in time, then stop the worker; return early when it has ended."""
    tasks = the_run().tasks
    if not _await(alive, lambda records: records.count((0, 0, 0)) >= boots, boots):
        return
    ready()
    needed = boots + tasks if tasks else sys.maxsize
    if _await(alive, lambda records: len(_ran(records)) >= tasks, needed):
        _tell_of(_ran(_records())[:tasks])
        _stop(worker, alive)


def _stop(worker: int, alive: int) -> None:
    """SIGTERM; some wait for a job that will not come, and end at once when told again."""
    for _ in range(3):
        os.kill(worker, signal.SIGTERM)
        if select.select([alive], [], [], _PATIENCE)[0]:
            return


def _await(alive: int, condition: Callable[[list[Record]], bool], needed: int) -> bool:
    """Wait until the journal fulfils the condition, which needs so many records; False if the worker ends before."""
    journal = Path(os.environ[JOURNAL])
    while journal.stat().st_size < needed * RECORD.size or not condition(_records()):
        if select.select([alive], [], [], _LOOK_EVERY)[0]:
            return False
    return True


def _records() -> list[Record]:
    journal = Path(os.environ[JOURNAL]).read_bytes()
    return list(RECORD.iter_unpack(journal))


def _ran(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record[0]]


def _tell_of(records: list[Record]) -> None:
    began, ended = min(record[0] for record in records), max(record[1] for record in records)
    report((ended - began) / 1e9, (late / 1e6 for _, _, late in records))
