"""Draws the runs of one scenario: one engine, or both side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.chaos.records import Record

#: Series that count tasks; all others have axes of their own.
COUNTS = ("acknowledged", "finished")

#: The series of ``Result`` whose pairs are (s, share of restarts that took no longer).
RESTARTS = "restarts"

#: Seconds within which 99 of 100 tasks of a dead worker are to run again.
RESTART_TARGET = 15.0

# The palette of Okabe and Ito, which the colour-blind can tell apart.
_ENGINES = {"asynqpy": "#0072B2", "go": "#D55E00"}
_FAULTS = ("#CC79A7", "#E69F00", "#009E73", "#56B4E9", "#999999")
_ACKNOWLEDGED = "#555555"
_LINES = (".-", "x--", "+:")
_NAMES = {"asynqpy": "asynqpy", "go": "Go asynq"}


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write ``<scenario>.png`` and ``.svg``; answers their paths."""
    with mpl.rc_context(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.facecolor": "white",
            "font.size": 10,
            "grid.color": "#dddddd",
            "legend.frameon": False,
        }
    ):
        figure = _figure(records)
        paths = [folder / f"{records[0].name}.{kind}" for kind in ("png", "svg")]
        for path in paths:
            figure.savefig(path, dpi=150)
    return paths


def _figure(records: Sequence[Record]) -> Figure:
    # "tasks/s: with x" and "tasks/s: without x" share their axes.
    others = sorted({name.partition(": ")[0] for r in records for name in r.series} - {*COUNTS})
    rows = 1 + len(others)
    figure = Figure(figsize=(5.5 * max(len(records), 1.6), 1.2 + 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, len(records))
    first: Axes | None = None
    for column, record in enumerate(records):
        first = axes = figure.add_subplot(grid[0, column], sharey=first)
        _draw_tasks(axes, record)
    for row, name in enumerate(others, 1):
        axes = figure.add_subplot(grid[row, :])
        (_draw_restarts if name == RESTARTS else _draw_series)(axes, records, name)
    figure.suptitle("\n".join(record.command for record in records), fontsize=8, family="monospace")
    return figure


def _draw_tasks(axes: Axes, record: Record) -> None:
    """Tasks acknowledged and finished over time; each fault a stroke at the foot."""
    styles = {"acknowledged": (_ACKNOWLEDGED, "--"), "finished": (_colour(record), "-")}
    for name, (colour, line) in styles.items():
        if pairs := record.series.get(name):
            axes.plot(*zip(*pairs, strict=True), color=colour, linestyle=line, label=name)
    for colour, kind in zip(_FAULTS * 9, sorted({kind for _, kind in record.marks}), strict=False):
        at = [seconds for seconds, of in record.marks if of == kind]
        axes.vlines(
            at,
            0,
            0.06,
            transform=axes.get_xaxis_transform(),
            color=colour,
            label=f"{kind} ({len(at)})",
        )
    axes.set(title=_title(record), xlabel="time (s)", ylabel="tasks", ylim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)


def _draw_restarts(axes: Axes, records: Sequence[Record], name: str) -> None:
    """How many of the tasks in flight at a fault ran again within how many seconds."""
    for record in records:
        if pairs := record.series.get(name):
            seconds, share = zip(*pairs, strict=True)
            percent = [100 * s for s in share]
            axes.step(seconds, percent, where="post", color=_colour(record), label=_label(record))
    axes.axvline(
        RESTART_TARGET, color="#000000", linestyle=":", label=f"target: {RESTART_TARGET:g} s"
    )
    axes.set(
        title="Restart of tasks in flight at a fault",
        xlabel="from the fault to the next start (s)",
        ylabel="tasks restarted (%)",
        ylim=(0, 101),
        xlim=(0, None),
    )
    axes.legend(loc="lower right", fontsize=8)


def _draw_series(axes: Axes, records: Sequence[Record], name: str) -> None:
    for record in records:
        lines = (
            (of, pairs) for of, pairs in record.series.items() if of.partition(": ")[0] == name
        )
        for (of, pairs), style in zip(sorted(lines), _LINES * 9, strict=False):
            label = f"{_label(record)} {of.partition(': ')[2]}"
            axes.plot(*zip(*pairs, strict=True), style, color=_colour(record), label=label)
    axes.set(xlabel="time (s)", ylabel=name, ylim=(0, None))
    axes.legend(fontsize=8)


def _title(record: Record) -> str:
    kept = "kept" if not record.breaches else f"promises broken: {len(record.breaches)}"
    return f"{record.name}, {_label(record)}: {kept}"


def _label(record: Record) -> str:
    return _NAMES.get(record.engine, record.engine)


def _colour(record: Record) -> str:
    return _ENGINES.get(record.engine, "#000000")
