"""``asynqpy demo``: the shop's story on an embedded server, shown while it happens."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from rich.console import Console

from asynqpy.cli.demo_record import Record
from asynqpy.cli.demo_shop import CONCURRENCY, QUEUES, run_shop
from asynqpy.cli.demo_view import View, summary, view_of
from asynqpy.embedded import EmbeddedServer
from asynqpy.errors import AsynqError

#: Seconds between two pictures.
_REFRESH = 0.1

_INTERRUPTED = 130


def run_demo(console: Console) -> int:
    """Show the demo and answer the exit status: 1 when something went wrong, 130 after Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a bar is no reason to fail in an ASCII world
    try:
        with _quiet_log():
            record = asyncio.run(_show(console))
    except KeyboardInterrupt:
        console.print("Stopped early; nothing is left running.")
        return _INTERRUPTED
    except AsynqError as error:
        print(f"asynqpy: {error}", file=sys.stderr)
        return 1
    return _conclude(console, record)


async def _show(console: Console) -> Record:
    async with EmbeddedServer() as redis:
        console.print(
            f"[bold]asynqpy demo[/]: a producer, a worker for {CONCURRENCY} tasks at once"
        )
        console.print(f"and an embedded server at {redis.url}, for a quarter of a minute.")
        record = Record()
        with view_of(console, record, QUEUES) as view:
            await _watch(asyncio.create_task(run_shop(redis.url, record)), view)
    return record


async def _watch(story: asyncio.Task[None], view: View) -> None:
    """Keep the view up to date until the story ends; end the story when the view cannot go on."""
    try:
        while not story.done():
            view.show()
            await asyncio.wait([story], timeout=_REFRESH)
        view.show()
    finally:
        story.cancel()
        await asyncio.wait([story])
    await story


def _conclude(console: Console, record: Record) -> int:
    console.print(summary(record, QUEUES))
    if record.unfinished:
        console.print(f"[red]{record.unfinished} tasks did not end in time.[/]")
        return 1
    console.print(
        f"Every task ended within {record.elapsed:.1f} s. The critical ones waited least:\n"
        "that is what their priority is for. The embedded server is gone, and its data."
    )
    return 0


@contextmanager
def _quiet_log() -> Iterator[None]:
    """The view tells of failed tasks; only what goes wrong beyond them is logged, on stderr."""
    logger = logging.getLogger("asynqpy")
    handler = _Stderr(level=logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Stderr(logging.Handler):
    """Prints to whatever stderr is now: a live screen puts its own there, which scrolls above it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"asynqpy: {record.getMessage()}", file=sys.stderr)
