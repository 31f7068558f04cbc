"""The commands and their arguments. What takes more than a few lines to do has a module of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from asynqpy.cli.demo import run_demo
from asynqpy.cli.worker import run_worker
from asynqpy.client import Client
from asynqpy.errors import AsynqError
from asynqpy.version import __version__

app = typer.Typer(
    help="A task queue for asyncio that shares its Redis with Go's asynq.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Uri = Annotated[
    str,
    typer.Option(
        "--uri",
        "-u",
        envvar="REDIS_URL",
        show_envvar=True,
        metavar="URL",
        help="Redis: redis://, unix://, redis-sentinel://, redis-cluster://, those with rediss for TLS, or embedded://",
    ),
]


@app.command()
def demo() -> None:
    """Watch tasks go through all of their states, for about a quarter of a minute.

    Starts a worker, a producer and a Redis of its own, and leaves nothing behind.
    """
    raise typer.Exit(run_demo(Console(highlight=False)))


@app.command()
def ping(uri: Uri = "redis://localhost:6379") -> None:
    """Check that Redis answers."""
    try:
        seconds = asyncio.run(_ping(uri))
    except (AsynqError, TypeError, ValueError) as error:
        _fail(error)
    typer.echo(f"PONG after {1000 * seconds:.1f} ms")


@app.command()
def version() -> None:
    """Print the version of asynqpy."""
    typer.echo(f"asynqpy {__version__}")


@app.command()
def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FUNCTION",
            help="An `async def` that runs a server, such as shop.worker:main",
        ),
    ],
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=0, help="How many; 0 is one per core")
    ] = 1,
) -> None:
    """Run a program's workers in processes that are watched, and started again when they end.

    The current directory is importable. On a terminal there is a line per process; elsewhere a line of log when one
    starts or ends. Ctrl-C and SIGTERM shut down, the second aborts handlers, the third kills.
    """
    raise typer.Exit(run_worker(Console(highlight=False), target, processes))


async def _ping(uri: str) -> float:
    """Seconds from the first contact to the answer."""
    async with Client(uri) as client:
        started = time.perf_counter()
        await client.ping()
        return time.perf_counter() - started


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"asynqpy: {error}", err=True)
    raise typer.Exit(1)
