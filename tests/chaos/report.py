"""What the runs in a folder showed: a table, plots, and the rows of docs/reliability.md.

``python -m tests.chaos.report DIR`` prints the table and draws; with ``--markdown`` it prints the rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.plot import draw
from tests.chaos.records import Record, by_scenario, load
from tests.chaos.scenario import Result

_HEADINGS = (
    "scenario",
    "load and faults",
    "lost",
    "stuck",
    "extra runs in flight / elsewhere",
    "retries burned",
    "restart p99",
)

_NONE = "–"

#: Figures that tell what was done to a run, besides faults of processes.
_HARM = {
    "replies_lost": "replies lost",
    "malformed": "malformed records",
    "producer_errors": "calls of the producer failed, and as large a share of the workers'",
    "seconds_full": "s full",
}


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """Print the table of these runs and draw them, beside what the folder has of other engines; answers the files."""
    names = {result.name for result in results}
    records = [record for record in load(folder) if record.name in names]
    Console().print(table(records))
    return draw_all(records, folder)


def draw_all(records: Sequence[Record], folder: Path) -> list[Path]:
    return [path for group in by_scenario(records).values() for path in draw(group, folder)]


def table(records: Sequence[Record]) -> Table:
    """One line a run; ``extra`` are runs again in flight at a fault and elsewhere."""
    shown = Table("scenario", "engine", "load", "lost", "stuck", "extra", "burned", "p99", "")
    shown.columns[0].no_wrap = True
    shown.columns[2].min_width = 16
    for record in records:
        promises = f"{len(record.breaches)} broken" if record.breaches else "kept"
        shown.add_row(record.name, record.engine, *_cells(record), promises)
    return shown


def markdown(records: Sequence[Record]) -> str:
    """A row a scenario, what Go asynq did in its last column, and below the commands that get each row again."""
    headings = (*_HEADINGS, "Go asynq, the same")
    lines = [_row(headings), _row(["---"] * len(headings))]
    groups = by_scenario(records)
    lines += [_row(_scenario_cells(name, group)) for name, group in groups.items()]
    commands = [record.command for record in records]
    return "\n".join([*lines, "", "```sh", *commands, "```"])


def _scenario_cells(name: str, group: Sequence[Record]) -> list[str]:
    engines = {record.engine: record for record in group}
    ours = _cells(engines["asynqpy"]) if "asynqpy" in engines else [_NONE] * (len(_HEADINGS) - 1)
    return [name, *ours, _in_words(engines["go"]) if "go" in engines else _NONE]


def _in_words(record: Record) -> str:
    """What the other columns have of asynqpy, and which promises it would have broken."""
    pairs = zip(_HEADINGS[2:], _cells(record)[1:], strict=True)
    figures = [f"{heading} {cell}" for heading, cell in pairs if cell != _NONE]
    return "; ".join([*figures, *(breach.partition(": ")[0] for breach in record.breaches)])


def _cells(record: Record) -> list[str]:
    return [cell(record) for cell in _CELLS]


def _load(record: Record) -> str:
    tasks = record.figures.get("acknowledged", 0)
    prefix = "faults_"
    faults = [
        f"{count:,} × {name.removeprefix(prefix)}"
        for name, count in record.figures.items()
        if name.startswith(prefix)
    ]
    faults += [
        f"{record.figures[name]:,} {what}" for name, what in _HARM.items() if name in record.figures
    ]
    return ", ".join([f"{tasks:,} tasks", *faults])


def _figure(*names: str) -> Callable[[Record], str]:
    """Figures side by side, those that the run has."""

    def cell(record: Record) -> str:
        values = [record.figures.get(name) for name in names]
        return " / ".join(_NONE if value is None else f"{value:,}" for value in values)

    return cell


def _restart(record: Record) -> str:
    if not record.figures.get("restarts_measured"):
        return _NONE
    return f"{record.figures['restart_p99_s']:g} s"


_CELLS: Sequence[Callable[[Record], str]] = (
    _load,
    _figure("lost"),
    _figure("stuck"),
    _figure("extra_runs_in_flight", "extra_runs_unexcused"),
    _figure("retries_burned"),
    _restart,
)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--markdown", action="store_true", help="print the rows, and draw nothing")
    arguments = parser.parse_args()
    records = load(arguments.folder)
    if arguments.markdown:
        print(markdown(records))
        return
    console = Console()
    console.print(table(records))
    for path in draw_all(records, arguments.folder):
        console.print(f"written: {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
