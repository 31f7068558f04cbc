"""How long the Inspector takes on a long queue, and for how long at a time it holds Redis up.

    python -m benchmarks.inspecting [--pending N] [--archived N]

Redis' own slow log has the second: the longest command, scripts included, while the operation ran. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import redis.asyncio
from redis.asyncio import Redis

from asynqpy import Client, Inspector, Task, TaskFilter
from benchmarks.harness.redis_server import BenchRedis

QUEUE = "default"

#: Commands from this length on are in the slow log, µs.
_NOTED = 200

_LOGGED = 10_000

#: Tasks that are enqueued at a time.
_SEEDED = 2_000


@dataclass(frozen=True)
class Measured:
    """``answer`` is how many tasks the operation read or moved."""

    operation: str
    answer: int
    seconds: float
    longest_ms: float


Operation = Callable[[Inspector], Awaitable[int]]


async def enqueue(url: str, count: int) -> None:
    async with Client(url) as client:
        for start in range(0, count, _SEEDED):
            await client.enqueue_many(
                Task("email:welcome", {"user_id": n, "is_even": n % 2 == 0})
                for n in range(start, min(start + _SEEDED, count))
            )


async def archive_some(admin: Redis, url: str, count: int) -> None:
    """More than the archive is to have: as old versions and other programs may have left it."""
    async with Client(url) as client:
        for start in range(0, count, _SEEDED):
            ids = [f"archived-{n}" for n in range(start, min(start + _SEEDED, count))]
            await client.enqueue_many(
                Task("email:welcome", task_id=it, process_in=60) for it in ids
            )
            pipeline = admin.pipeline(transaction=False)
            for it in ids:
                _ = pipeline.hset(f"asynq:{{{QUEUE}}}:t:{it}", "state", "archived")
            await pipeline.execute()
    await admin.rename(f"asynq:{{{QUEUE}}}:scheduled", f"asynq:{{{QUEUE}}}:archived")


def operations(pending: int) -> Iterator[tuple[str, Operation]]:
    """In this order: each finds what those before it have left."""

    async def stats(it: Inspector) -> int:
        return len(await it.get_queue_infos())

    async def info(it: Inspector) -> int:
        return (await it.get_queue_info(QUEUE)).pending

    async def all_of_them(it: Inspector) -> int:
        return sum([1 async for _ in it.iter_tasks(QUEUE, "pending")])

    def page(number: int) -> Operation:
        async def listed(it: Inspector) -> int:
            return len(await it.list_tasks(QUEUE, "pending", page=number))

        return listed

    half, none = TaskFilter(payload={"is_even": True}), TaskFilter(type="none")
    last = max(1, pending // 30)
    yield "all queues, as for `stats`", stats
    yield "one queue, with its memory", info
    yield "the first page of pending", page(1)
    yield "a page in the middle", page(max(1, last // 2))
    yield "the last page", page(last)
    yield "all pending, as a stream", all_of_them
    yield (
        "delete those that fit: none",
        lambda it: it.delete_all_tasks(QUEUE, "pending", where=none),
    )
    yield (
        "delete those that fit: half",
        lambda it: it.delete_all_tasks(QUEUE, "pending", where=half),
    )
    yield "run all archived", lambda it: it.run_all_tasks(QUEUE, "archived")
    yield "archive all pending", lambda it: it.archive_all_tasks(QUEUE, "pending")


async def measure(admin: Redis, inspector: Inspector, name: str, do: Operation) -> Measured:
    await inspector.ping()
    await admin.slowlog_reset()
    began = time.perf_counter()
    answer = await do(inspector)
    seconds = time.perf_counter() - began
    entries = await admin.slowlog_get(_LOGGED)
    ours = [it["duration"] for it in entries if b"SLOWLOG" not in it["command"].upper()]
    return Measured(name, answer, seconds, max(ours, default=0) / 1_000)


async def rows(url: str, pending: int, archived: int) -> AsyncIterator[Measured]:
    async with (
        redis.asyncio.Redis.from_url(url, protocol=2) as admin,
        Inspector(url) as inspector,
    ):
        await admin.config_set("slowlog-log-slower-than", _NOTED)
        await admin.config_set("slowlog-max-len", _LOGGED)
        await archive_some(admin, url, archived)
        await enqueue(url, pending)
        for name, do in operations(pending):
            yield await measure(admin, inspector, name, do)
        await enqueue(url, pending)
        yield await measure(
            admin,
            inspector,
            "delete all pending",
            lambda it: it.delete_all_tasks(QUEUE, "pending"),
        )


async def show(url: str, pending: int, archived: int) -> None:
    print("| operation | tasks | seconds | longest command, ms |\n|---|---:|---:|---:|")
    async for row in rows(url, pending, archived):
        cells = f"{row.answer:,} | {row.seconds:.3f} | {row.longest_ms:.1f}"
        print(f"| {row.operation} | {cells} |", flush=True)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--pending", type=int, default=1_000_000)
    flags.add_argument("--archived", type=int, default=100_000)
    chosen = flags.parse_args()
    with BenchRedis() as server:
        print(f"{chosen.pending:,} pending, {chosen.archived:,} archived, {server.version}\n")
        asyncio.run(show(server.url, chosen.pending, chosen.archived))


if __name__ == "__main__":
    main()
