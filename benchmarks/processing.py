"""How many no-op tasks a second does one worker process, beside Go's asynq on the same Redis?

    make bench                                   # or: python benchmarks/processing.py --tasks 20000 --rounds 5

Starts a Redis of its own. In each round the queue is filled and a fresh worker process of each kind empties it; the
kinds take turns, so that a slow spell of the machine hits both. The time runs from the first to the last task. Prints
medians, the spread, and the ratio to Go's asynq, which is skipped where Go is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from asynqpy import Client, EmbeddedServer, Task

HERE = Path(__file__).parent
PYTHON, GO = "asynqpy", "asynq (Go)"


def main() -> None:
    arguments = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer() as redis:
        workers = {PYTHON: [sys.executable, str(HERE / "worker.py"), redis.url]}
        if shutil.which("go"):
            workers[GO] = [_build_go_worker(Path(folder)), f"127.0.0.1:{redis.port}"]
        else:
            console.print("Go is not installed: asynqpy runs alone")
        for concurrency in arguments.concurrency:
            rates = _measure(redis.url, workers, concurrency, arguments, console)
            console.print(_table(rates, concurrency, arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="No-op tasks per second, beside Go's asynq")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[10, 50, 200])
    return parser.parse_args()


def _build_go_worker(folder: Path) -> str:
    binary = folder / "worker"
    command = ["go", "build", "-buildvcs=false", "-o", str(binary), "."]
    subprocess.run(command, cwd=HERE / "go", check=True)
    return str(binary)


def _measure(
    url: str,
    workers: dict[str, list[str]],
    concurrency: int,
    arguments: argparse.Namespace,
    console: Console,
) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {kind: [] for kind in workers}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"concurrency {concurrency}", total=arguments.rounds * len(workers))
        for _ in range(arguments.rounds):
            for kind, command in workers.items():
                asyncio.run(_fill(url, arguments.tasks))
                seconds = _run([*command, str(concurrency), str(arguments.tasks)])
                rates[kind].append(arguments.tasks / seconds)
                progress.advance(bar)
    return rates


async def _fill(url: str, tasks: int) -> None:
    async with Client(url) as client:
        outcomes = await client.enqueue_many(Task("noop", {"n": n}) for n in range(tasks))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if refused:
        raise refused[0]


def _run(command: list[str]) -> float:
    """The seconds that the worker prints once it has processed everything."""
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return float(finished.stdout)


def _table(rates: dict[str, list[float]], concurrency: int, arguments: argparse.Namespace) -> Table:
    title = f"{arguments.tasks} no-op tasks, concurrency {concurrency}, {arguments.rounds} rounds"
    table = Table("worker", title=title, title_justify="left")
    for heading in ("median tasks/s", "slowest", "fastest", "ratio to Go"):
        table.add_column(heading, justify="right")
    for kind, measured in rates.items():
        ratio = f"{median(measured) / median(rates[GO]):.2f}" if GO in rates else "-"
        figures = [f"{rate:,.0f}" for rate in (median(measured), min(measured), max(measured))]
        table.add_row(kind, *figures, ratio)
    return table


if __name__ == "__main__":
    main()
