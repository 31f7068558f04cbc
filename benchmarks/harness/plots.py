"""Results as bars: the median of each row, its slowest and fastest round as whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.harness.records import Measure, Result, Row

# Of the palette of Okabe and Ito, which the colour-blind can tell apart, and printers too.
_OURS, _GO, _OTHERS = "#0072B2", "#D55E00", "#999999"

#: From this ratio of the longest bar to the shortest on the axis is logarithmic.
_LOG_FROM = 20.0

#: In inches: a figure's width, a bar's height, and what stands around the bars of one measure.
_WIDTH, _BAR, _AROUND = 8.0, 0.3, 1.1

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#dddddd",
    "svg.hashsalt": "asynqpy",  # the same ids in every run
}


def draw(result: Result, folder: Path) -> list[Path]:
    """Write ``<question>.png`` and ``.svg``; answers their paths."""
    with mpl.rc_context(_STYLE):
        figure = _figure(result)
        paths = [folder / f"{result.question}.{kind}" for kind in ("png", "svg")]
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
    return paths


def _figure(result: Result) -> Figure:
    heights = [_AROUND + _BAR * max(len(measured(m)), 1) for m in result.measures] or [1.0]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(max(len(heights), 1), 1, height_ratios=heights)
    for place, measure in enumerate(result.measures):
        _draw(figure.add_subplot(grid[place, 0]), measure)
    figure.suptitle(f"{result.title} ({_place(result)})", fontsize=11)
    return figure


def _place(result: Result) -> str:
    machine = result.machine
    return f"{machine['cores']} cores, Python {machine['python']}, {machine['redis']}"


def measured(measure: Measure) -> list[Row]:
    """The rows that have anything to draw."""
    return [row for row in measure.rows if row.values(measure.main.key)]


def _draw(axes: Axes, measure: Measure) -> None:
    rows = measured(measure)
    middles = [row.middle(measure.main.key) or 0.0 for row in rows]
    axes.barh(
        range(len(rows)),
        middles,
        xerr=_whiskers(rows, middles, measure.main.key),
        color=[_colour(row) for row in rows],
        error_kw={"ecolor": "#333333", "capsize": 3, "elinewidth": 1},
    )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    better = "less is better" if measure.less_is_better else "more is better"
    axes.set_title(measure.title, loc="left", fontsize=10)
    axes.set_xlabel(f"{measure.main.title}, median of rounds, with the extremes; {better}")
    if is_logarithmic(middles):
        axes.set_xscale("log")
        axes.set_xlabel(f"{axes.get_xlabel()}; logarithmic")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    _number(axes, rows, middles, measure)


def _number(axes: Axes, rows: Sequence[Row], middles: Sequence[float], measure: Measure) -> None:
    """Write each bar's figure behind its whisker."""
    for place, (row, middle) in enumerate(zip(rows, middles, strict=True)):
        axes.annotate(
            f"{middle:,.{measure.main.digits}f}",
            (max(row.values(measure.main.key)), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.margins(x=0.12)


def _whiskers(rows: Sequence[Row], middles: Sequence[float], key: str) -> list[list[float]]:
    pairs = list(zip(rows, middles, strict=True))
    below = [middle - min(row.values(key)) for row, middle in pairs]
    above = [max(row.values(key)) - middle for row, middle in pairs]
    return [below, above]


def is_logarithmic(values: Sequence[float]) -> bool:
    """Whether bars of these lengths would hide the short ones."""
    positive = [value for value in values if value > 0]
    return len(positive) == len(values) > 1 and max(positive) / min(positive) >= _LOG_FROM


def _colour(row: Row) -> str:
    if row.contender.startswith("asynqpy"):
        return _OURS
    return _GO if row.contender == "go" else _OTHERS
