"""How worker processes look on a terminal: a line each at its foot, above them what they write."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asynqpy.supervisor.reports import ProcessInfo, ProcessState

_STYLES = {
    ProcessState.WAITING: "red",
    ProcessState.STARTING: "cyan",
    ProcessState.RUNNING: "green",
    ProcessState.PAUSED: "yellow",
    ProcessState.STOPPING: "yellow",
    ProcessState.ENDED: "dim",
}

#: Their columns, and whether numbers stand in them.
_COLUMNS = {
    "process": True,
    "pid": True,
    "state": False,
    "running": True,
    "processed": True,
    "per s": True,
    "cpu": True,
    "restarts": True,
}


class Screen:
    """The lines stay at the foot of the terminal while the block runs, and are gone after it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, processes: Sequence[ProcessInfo]) -> None:
        """Put new lines in the place of the old ones."""
        self._live.update(table(processes), refresh=True)

    def print(self, number: int, line: str) -> None:
        """Print what a process has written, above the lines."""
        text = Text.assemble((f"[{number}] ", "dim"), Text.from_ansi(line))
        self._console.print(text, soft_wrap=True)


def table(processes: Sequence[ProcessInfo]) -> Table:
    """A line per process."""
    lines = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name, is_number in _COLUMNS.items():
        lines.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for process in processes:
        lines.add_row(*cells(process))
    return lines


def cells(process: ProcessInfo) -> list[str | Text]:
    """What a line says; what a process that is not there or has no server cannot have is left empty."""
    has_server = process.concurrency + process.running + process.processed > 0
    return [
        str(process.number),
        str(process.pid or ""),
        Text(_state(process), _STYLES[process.state]),
        _running(process) if has_server else "",
        f"{process.processed:,}" if has_server else "",
        f"{process.per_second:,.0f}" if has_server else "",
        f"{process.cpu:.0%}" if has_server else "",
        str(process.restarts or ""),
    ]


def _running(process: ProcessInfo) -> str:
    """One that stops has no places any more, but may have handlers to wait for."""
    at_most = f" of {process.concurrency}" if process.concurrency else ""
    return f"{process.running}{at_most}"


def _state(process: ProcessInfo) -> str:
    if process.state is ProcessState.ENDED:
        return process.state.value
    return f"{process.state} {span(process.seconds)}"


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
