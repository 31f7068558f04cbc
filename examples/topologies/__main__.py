"""Redis as production has it, on this machine: started, used, and broken if you like.

    python -m examples.topologies single|sentinel|cluster|tls [--seconds 10] [--kill] [--servers-only]

It starts the servers of a topology on free ports, prints the URL to use, and lets producers and a worker run over three
queues, with a line each second. ``--kill`` kills the primary after three seconds, as a crash would, and starts it again
five seconds later: see how long a queue is without, and what is missing at the end. With ``--servers-only`` you bring
your own programs. It ends after ``--seconds``, else with Ctrl-C, and leaves nothing behind, the data neither.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from asynqpy import ActiveTask, Client, Server
from examples.topologies.layouts import LAYOUTS, Topology
from examples.topologies.traffic import QUEUES, Books, produce, settle

#: Seconds after which the primary is killed, and for which it stays dead.
ALIVE, DEAD = 3.0, 5.0

#: Seconds that the last tasks have at the end.
PATIENCE = 10.0


def arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(prog="python -m examples.topologies")
    flags.add_argument("topology", choices=LAYOUTS)
    flags.add_argument("--seconds", type=float, help="end after so long; without it, at Ctrl-C")
    flags.add_argument("--kill", action="store_true", help=f"kill the primary after {ALIVE:g} s")
    flags.add_argument("--servers-only", action="store_true", help="no producers and no worker")
    return flags.parse_args()


async def flow(topology: Topology, seconds: float | None, *, kill: bool) -> None:
    """Producers and a worker, until the time is up or somebody interrupts."""
    books = {queue: Books() for queue in QUEUES}

    async def handle(task: ActiveTask) -> None:
        await books[task.queue].run(task)

    try:
        worker = Server(topology.url, queues=QUEUES, concurrency=20)
        async with Client(topology.url) as client, worker.running(handle):
            parts = [produce(client, queue, books[queue]) for queue in QUEUES]
            parts += [report(books), *([crash(topology)] if kill else [])]
            await for_a_while(parts, seconds)
            await settle(books, PATIENCE)
    finally:
        for queue, each in books.items():
            say(f"{queue}: {each.summary()}")


async def for_a_while(parts: list[Coroutine[None, None, None]], seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)


async def report(books: Mapping[str, Books]) -> None:
    """A line each second."""
    for second in count(1):
        await asyncio.sleep(1.0)
        glances = (f"{queue} {each.glance()}" for queue, each in books.items())
        say(f"{second:4} s  {'  '.join(glances)}".rstrip())


async def crash(topology: Topology) -> None:
    """Kill the primary, and have it back after a while."""
    await asyncio.sleep(ALIVE)
    topology.primary.kill()
    say(f"--- the primary at {topology.primary.address} is killed")
    await asyncio.sleep(DEAD)
    await asyncio.to_thread(topology.primary.start)
    say(f"--- {topology.primary.address} is started again")


def say(text: str) -> None:
    print(text, flush=True)


def run(topology: Topology, given: argparse.Namespace) -> None:
    say(f"{given.topology}: {topology.url}")
    if given.servers_only:
        threading.Event().wait(given.seconds)
    else:
        asyncio.run(flow(topology, given.seconds, kill=given.kill))


def main() -> None:
    given = arguments()
    layout = "        %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=layout, stream=sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C does
    with (
        suppress(KeyboardInterrupt),
        TemporaryDirectory(prefix="asynqpy-") as folder,
        LAYOUTS[given.topology](Path(folder)) as topology,
    ):
        run(topology, given)
    say("nothing is left running")


if __name__ == "__main__":
    main()
