"""``python -m tests.chaos``: play scenarios, print what came of them, and say by the exit status whether all held."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asynqpy.embedded import find_server
from asynqpy.version import __version__
from tests.chaos.engines import ENGINES
from tests.chaos.scenario import Result, Scenario, Settings, scenarios


def main() -> None:
    known = scenarios()
    arguments = _arguments(list(known))
    console = Console()
    if arguments.list:
        console.print(_catalogue(list(known.values())))
        return
    chosen = list(known) if "all" in arguments.scenario else arguments.scenario
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="asynqpy-chaos-"))
    results = [
        _play(known[name], engine, arguments, folder)
        for name in chosen
        for engine in arguments.engine
        if engine in known[name].engines
    ]
    for result in results:
        console.print(_table(result))
    if arguments.plot:
        _report(results, folder, console)
    sys.exit(any(result.breaches for result in results if result.engine == "asynqpy"))


def _report(results: list[Result], folder: Path, console: Console) -> None:
    # Drawing takes longer to import than all the rest.
    from tests.chaos import report

    for path in report.write(results, folder):
        console.print(f"written: {path}", soft_wrap=True)


def _arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add(
        "--scenario",
        nargs="+",
        default=["all"],
        choices=[*names, "all"],
        metavar="NAME",
        help="which to play, default all; --list names them",
    )
    add(
        "--size",
        choices=["ci", "long"],
        default="ci",
        help="ci (default): short, with twice the time for everything; long: the figures of the documentation",
    )
    add("--seconds", type=float, help="how long the load lasts")
    add("--tasks", type=int, help="how many tasks there are")
    add("--faults", type=int, help="how many kills, cuts or bad records")
    add("--seed", type=int, default=1, help="of all that is drawn by lot, default 1")
    add(
        "--engine",
        nargs="+",
        choices=list(ENGINES),
        default=["asynqpy"],
        help="whose workers; go needs Go. Only broken promises of asynqpy make the exit status 1",
    )
    add("--out", type=Path, help="where journals, logs and results go; default a temporary folder")
    add("--no-plot", dest="plot", action="store_false", help="draw nothing")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    return parser.parse_args()


def _play(scenario: Scenario, engine: str, arguments: argparse.Namespace, folder: Path) -> Result:
    size = scenario.size(arguments.size)
    own = folder / f"{scenario.name}-{engine}"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    settings = Settings(
        scenario=scenario.name,
        seconds=arguments.seconds or size.seconds,
        tasks=arguments.tasks or size.tasks,
        faults=size.faults if arguments.faults is None else arguments.faults,
        seed=arguments.seed,
        engine=engine,
        folder=own.resolve(),
        size=arguments.size,
    )
    try:
        result = asyncio.run(scenario.run(settings))
    except Exception as error:  # the others are still worth playing
        traceback.print_exc()
        result = Result(scenario.name, engine, breaches=[f"the scenario did not end: {error!r}"])
    (folder / f"{scenario.name}-{engine}.json").write_text(_record(result, settings))
    return result


def _record(result: Result, settings: Settings) -> str:
    """The figures, and all that is needed to get them again."""
    record = {
        "command": _command(settings),
        "python": platform.python_version(),
        "asynqpy": __version__,
        "redis-py": version("redis"),
        "redis": _redis_version(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
    }
    return json.dumps({**record, **asdict(result)}, indent=1)


def _redis_version() -> str:
    command = [str(find_server()), "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _command(settings: Settings) -> str:
    return (
        f"python -m tests.chaos --scenario {settings.scenario} --engine {settings.engine} --size {settings.size} "
        f"--seconds {settings.seconds:g} --tasks {settings.tasks} --faults {settings.faults} --seed {settings.seed}"
    )


def _table(result: Result) -> Table:
    title = f"{result.name} ({result.engine}): {'broken' if result.breaches else 'kept'}"
    table = Table("figure", title=title, title_justify="left")
    table.add_column("value", justify="right")
    for name, value in result.figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    for text in (*result.breaches, *result.notes):
        table.add_row("breach" if text in result.breaches else "note", text)
    return table


def _catalogue(known: list[Scenario]) -> Table:
    table = Table("scenario", "promises", "engines")
    for scenario in known:
        table.add_row(scenario.name, scenario.promises, ", ".join(scenario.engines))
    return table


if __name__ == "__main__":
    main()
