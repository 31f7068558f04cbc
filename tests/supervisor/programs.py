"""Worker programs for supervisors under test, by the names of their entry points.

They use the Redis of ``REDIS_URL``. A task of type ``run`` appends the pid of its process to the list ``ran``; one of
type ``hold`` does so to ``held``, and then waits until it is cancelled; one of type ``wait`` waits for something in the
list ``go``, and is then as one of type ``run``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys

from asynqpy import ActiveTask, ServeMux, Server
from tests.raw_redis import raw_client

REDIS_URL = os.environ["REDIS_URL"]

mux = ServeMux()


@mux.handler("run")
async def run(task: ActiveTask) -> None:
    await _note("ran")


@mux.handler("hold")
async def hold(task: ActiveTask) -> None:
    await _note("held")
    await asyncio.Event().wait()


@mux.handler("wait")
async def wait(task: ActiveTask) -> None:
    await _note("held")
    await _let_go()
    await _note("ran")


async def _let_go() -> None:
    async with raw_client(REDIS_URL) as redis:
        await redis.blpop(["go"])


async def _note(name: str) -> None:
    async with raw_client(REDIS_URL) as redis:
        await redis.rpush(name, os.getpid())


def server(shutdown_timeout: float = 0.1) -> Server:
    return Server(
        REDIS_URL, concurrency=1, task_check_interval=0.05, shutdown_timeout=shutdown_timeout
    )


async def main() -> None:
    await server().run(mux)


async def patient() -> None:
    """Waits for its handlers for a minute, and tells of it."""
    logging.basicConfig(level=logging.INFO)
    await server(shutdown_timeout=60).run(mux)


async def stubborn() -> None:
    """Does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    async with server().running(mux):
        await asyncio.Event().wait()


async def by_hand() -> None:
    """Obeys SIGTERM in its own way."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with server().running(mux):
        await told.wait()


async def replaced() -> None:
    """Becomes another program, which knows nothing of supervisors."""
    os.execvp("sleep", ["sleep", "600"])


async def replaced_unheard() -> None:
    """Becomes a program that leaves unread what it is told, and then closes its line."""
    line = int(sys.argv[1])
    os.set_inheritable(line, True)
    os.execv(sys.executable, [sys.executable, "-c", _DEAF, str(line)])


_DEAF = """
import os, socket, sys, time
line = socket.socket(fileno=int(sys.argv[1]))
line.recv(1, socket.MSG_PEEK)
line.close()
time.sleep(600)
"""


async def short() -> None:
    """Ends by itself when it has had a server."""
    async with server().running(mux):
        pass


async def serverless() -> None:
    """Ends without having had a server."""


async def spoilt() -> None:
    """Works, but fails to start once the key ``spoilt`` is there."""
    async with raw_client(REDIS_URL) as redis:
        if await redis.exists("spoilt"):
            sys.exit(3)
    await main()


async def slow() -> None:
    """Starts its server when something is in the list ``go``."""
    await _note("waiting")
    await _let_go()
    await main()


async def one_after_another() -> None:
    """Runs a second server once something is in the list ``go``."""
    async with server().running(mux):
        pass
    gc.collect()  # as it comes by itself some day: nothing tells of the first any more
    await _note("waiting")
    await _let_go()
    await main()


async def talkative() -> None:
    print("to stdout")
    print("number", os.environ["ASYNQPY_PROCESS"])
    logging.getLogger("shop").warning("to the log")
    await main()
