"""How the demo looks: a live screen on a terminal, lines as things happen elsewhere, and the summary of both."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asynqpy.cli.demo_record import Event, Kind, Record
from asynqpy.task import TaskState

_STATE_STYLES = {
    TaskState.SCHEDULED: "cyan",
    TaskState.PENDING: "default",
    TaskState.ACTIVE: "bright_blue",
    TaskState.RETRY: "yellow",
    TaskState.COMPLETED: "green",
    TaskState.ARCHIVED: "red",
}

#: Attempts that start are counted, but would drown the rest.
_EVENT_STYLES = {
    Kind.ENQUEUED: "default",
    Kind.SCHEDULED: "cyan",
    Kind.FAILED: "magenta",
    Kind.RETRIED: "yellow",
    Kind.COMPLETED: "green",
    Kind.ARCHIVED: "red",
}

#: Lines of the screen that are not its log, and how many its log has at least and at most.
_FRAME, _SHORTEST_LOG, _LONGEST_LOG = 15, 3, 12

#: The column of the states' names, and what a queue's column needs beside its bars.
_NAMES, _BESIDE_BAR = 11, 10
_LONGEST_BAR = 40

#: Tasks that a full bar stands for, until there are more.
_FULL_BAR = 30


class View(Protocol):
    """Shows a record while its block runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self) -> None:
        """Show what is new."""


def view_of(console: Console, record: Record, queues: Mapping[str, int]) -> View:
    """The screen where the console can draw one, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return Screen(console, record, queues)
    return Lines(console, record)


class Lines:
    """An event is a line, for pipes and logs."""

    def __init__(self, console: Console, record: Record) -> None:
        self._console = console
        self._record = record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self) -> None:
        for event in self._record.take_events():
            if event.kind in _EVENT_STYLES:
                self._console.print(event_line(event), soft_wrap=True)


class Screen:
    """Each queue's tasks by state as bars that move, and the latest events below; gone when it is left."""

    def __init__(self, console: Console, record: Record, queues: Mapping[str, int]) -> None:
        self._console = console
        self._record = record
        self._queues = queues
        self._log: deque[Event] = deque(maxlen=_LONGEST_LOG)
        self._block = "▇" if console.encoding.startswith("utf") else "="
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self) -> None:
        self._log.extend(e for e in self._record.take_events() if e.kind in _EVENT_STYLES)
        self._live.update(self.render(), refresh=True)

    def render(self) -> RenderableType:
        return Group(Text(), self._states(), Text(), self._totals(), Text(), *self._latest())

    def _states(self) -> Table:
        table = Table(box=None, show_edge=False, padding=(0, 1), pad_edge=False)
        table.add_column(f"{self._record.elapsed:6.1f} s", width=_NAMES, justify="right")
        for queue, priority in self._queues.items():
            title = Text.assemble((queue, "bold"), (f"  priority {priority}", "dim"))
            table.add_column("", width=4, justify="right")
            table.add_column(title, width=self._bar_width)
        for state, style in _STATE_STYLES.items():
            table.add_row(Text(state.value, style), *self._cells(state, style))
        return table

    def _cells(self, state: TaskState, style: str) -> list[Text]:
        cells = []
        for count in (self._record.in_state(queue, state) for queue in self._queues):
            number = Text(str(count), style if count else "dim")
            cells += [number, Text(self._block * self._bar_length(count), style)]
        return cells

    @property
    def _bar_width(self) -> int:
        room = (self._console.width - _NAMES) // len(self._queues) - _BESIDE_BAR
        return max(1, min(_LONGEST_BAR, room))

    def _bar_length(self, count: int) -> int:
        """Cells of a bar: one at least for any task."""
        counts = [self._record.in_state(q, s) for q in self._queues for s in _STATE_STYLES]
        return -(-count * self._bar_width // max(_FULL_BAR, *counts))

    def _totals(self) -> Text:
        count = self._record.count
        parts = (
            f"{self._record.accepted()} enqueued",
            f"{count(Kind.STARTED)} attempts",
            f"{count(Kind.FAILED)} failed",
            f"{count(Kind.RETRIED)} retried",
        )
        return Text(f"{'so far':>{_NAMES}}  " + ", ".join(parts), "dim")

    def _latest(self) -> list[Text]:
        """Always the same number of lines, so that the screen does not jump."""
        room = max(_SHORTEST_LOG, min(_LONGEST_LOG, self._console.height - _FRAME))
        lines = [event_line(event) for event in list(self._log)[-room:]]
        return lines + [Text()] * (room - len(lines))


def event_line(event: Event) -> Text:
    """An event in columns; cut, not wrapped, where the console is narrow."""
    parts = (
        (f"{event.at:6.1f} s  ", "dim"),
        (f"{event.kind:<11}", _EVENT_STYLES[event.kind]),
        f"{event.queue:<10}",
        f"{event.task_id:<20}",
        (event.note, "dim"),
    )
    line = Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
    line.rstrip()
    return line


def summary(record: Record, queues: Mapping[str, int]) -> Table:
    """What happened, a column per queue."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2), pad_edge=False)
    table.add_column("")
    for queue in queues:
        table.add_column(queue, justify="right")
    table.add_row("priority", *map(str, queues.values()))
    table.add_row("enqueued", *(str(record.accepted(queue)) for queue in queues))
    for kind in (kind for kind in Kind if kind is not Kind.ENQUEUED):
        name = "attempts" if kind is Kind.STARTED else kind.value
        counts = (str(record.count(kind, queue)) for queue in queues)
        table.add_row(name, *counts, style=_EVENT_STYLES.get(kind))
    table.add_row("median wait", *(f"{record.median_wait(queue):.2f} s" for queue in queues))
    return table
