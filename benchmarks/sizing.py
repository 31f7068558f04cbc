"""What to size Redis by: its memory for a task, and the connections of a client and of a server.

    python -m benchmarks.sizing [--tasks N]

Counted, not timed, so nothing has to stand still meanwhile. Prints the tables of docs/production.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
)

import redis

from asynqpy import ActiveTask, Client, Server, Task
from benchmarks.harness.deployments import cluster, sentinel
from benchmarks.harness.redis_server import BenchRedis, Running, standalone
from benchmarks.harness.summary import ALONE, CLUSTER

Start = Callable[[], AbstractContextManager[Running]]
User = Callable[[str], AbstractAsyncContextManager[None]]

DEPLOYMENTS: dict[str, Start] = {
    ALONE: standalone,
    "Sentinel, of 3": sentinel,
    CLUSTER: cluster,
}

#: Queues that lie on all nodes of a cluster, and handlers that run at once.
QUEUES, CONCURRENCY = [f"q{n}" for n in range(12)], 50

#: Seconds in which a server has opened what it needs, or has closed what it does not.
SETTLE = 3.0

#: What a task may be, by what it is called.
KINDS: dict[str, Callable[[int], Task]] = {
    "pending, payload of 100 bytes": lambda n: Task("email:welcome", b"x" * 100),
    "pending, payload of 1,000 bytes": lambda n: Task("email:welcome", b"x" * 1_000),
    "scheduled, 100 bytes": lambda n: Task("email:welcome", b"x" * 100, process_in=86_400),
    "unique, 100 bytes": lambda n: Task("email:welcome", f"{n:0100}", unique=86_400),
}


async def bytes_of(server: BenchRedis, make: Callable[[int], Task], tasks: int) -> float:
    """Redis' memory for a task, of so many."""
    server.flush()
    async with Client(server.url) as client:
        await client.enqueue_many([make(-1)])  # with what there is once: scripts, names
        before = server.info("memory")["used_memory"]
        for start in range(0, tasks, 1_000):
            await client.enqueue_many(make(start + n) for n in range(min(1_000, tasks - start)))
    return float(server.info("memory")["used_memory"] - before) / tasks


def memory(tasks: int) -> Iterator[tuple[str, str]]:
    with BenchRedis() as server:
        for name, make in KINDS.items():
            yield name, f"{asyncio.run(bytes_of(server, make, tasks)):,.0f}"


def connected(ports: Sequence[int]) -> list[int]:
    """The connections to each of the servers, but for those of sentinels and the one that asks."""
    counts = []
    for port in ports:
        with redis.Redis(port=port, protocol=2) as admin:
            names = [each["name"] for each in admin.client_list()]
        counts.append(sum(1 for name in names if not name.startswith("sentinel-")) - 1)
    return counts


@asynccontextmanager
async def idle_client(url: str) -> AsyncIterator[None]:
    async with Client(url) as client:
        for queue in QUEUES:
            await client.enqueue(Task("noop"), queue=queue)
        yield


@asynccontextmanager
async def busy_client(url: str) -> AsyncIterator[None]:
    async with Client(url) as client:
        tasks = (Task("noop", queue=QUEUES[n % len(QUEUES)]) for n in range(500))
        await asyncio.gather(*map(client.enqueue, tasks))
        yield


@asynccontextmanager
async def idle_server(url: str) -> AsyncIterator[None]:
    async with Server(url, queues=QUEUES).running(rest):
        await asyncio.sleep(SETTLE)
        yield


@asynccontextmanager
async def busy_server(url: str) -> AsyncIterator[None]:
    async with Client(url) as client:
        await client.enqueue_many(Task("noop", queue=QUEUES[n % 12]) for n in range(5_000))
    async with Server(url, queues=QUEUES, concurrency=CONCURRENCY).running(rest):
        await asyncio.sleep(SETTLE)
        yield


async def rest(task: ActiveTask) -> None:
    await asyncio.sleep(0.02)


USERS: dict[str, User] = {
    "a client, one enqueue after another": idle_client,
    "a client, 500 enqueues at once": busy_client,
    "a server, idle": idle_server,
    f"a server, {CONCURRENCY} handlers at work": busy_server,
}


async def connections(running: Running, user: User) -> str:
    """Those that a user has, to each node and to each sentinel."""
    groups = [group for group in (running.ports, running.sentinels) if group]
    await asyncio.to_thread(nobody, groups)
    async with user(running.url):
        counts = [await asyncio.to_thread(connected, group) for group in groups]
    return " and ".join("+".join(map(str, count)) for count in counts)


def nobody(groups: Sequence[Sequence[int]]) -> None:
    """Wait until the user before has gone."""
    until = time.monotonic() + SETTLE
    while any(sum(connected(group)) for group in groups) and time.monotonic() < until:
        time.sleep(0.01)


def connection_rows() -> Iterator[tuple[str, ...]]:
    columns = []
    for start in DEPLOYMENTS.values():
        with start() as running:
            columns.append([asyncio.run(connections(running, user)) for user in USERS.values()])
    yield from zip(USERS, *columns, strict=True)


def show(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print(f"| {' | '.join(line)} |", flush=True)
    print()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--tasks", type=int, default=20_000)
    tasks = flags.parse_args().tasks
    show(["a task", "bytes in Redis"], memory(tasks))
    show(["connections of", *DEPLOYMENTS], connection_rows())


if __name__ == "__main__":
    main()
