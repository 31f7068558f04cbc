from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console
from rich.text import Text

from asynqpy.broker.messages import TaskMessage
from asynqpy.cli.demo_record import Event, Kind, Record
from asynqpy.cli.demo_shop import QUEUES
from asynqpy.cli.demo_view import Lines, Screen, event_line, summary, view_of
from asynqpy.task import TaskInfo, TaskState


def console(width: int = 80, *, terminal: bool = False, no_color: bool = False) -> Console:
    return Console(
        file=StringIO(),
        width=width,
        height=24,
        force_terminal=terminal,
        no_color=no_color,
        color_system="standard" if terminal else None,
        highlight=False,
        _environ={"TERM": "xterm"},
    )


def written(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def busy_record() -> Record:
    """Twelve pending tasks in one queue, a hundred in the other."""
    record = Record(clock=lambda: 0.0)
    for queue, count in zip(QUEUES, (12, 100), strict=True):
        for number in range(count):
            message = TaskMessage(
                type="image:thumbnail", payload=b"", id=f"{queue}/{number}", queue=queue
            )
            record.enqueued([TaskInfo.of(message, TaskState.PENDING)])
    return record


def test_lines_tell_each_event_without_control_characters() -> None:
    record, pipe = busy_record(), console()
    with view_of(pipe, record, QUEUES) as view:
        view.show()
        view.show()
    lines = written(pipe).splitlines()
    assert len(lines) == 112
    assert lines[0] == "   0.0 s  enqueued   critical  critical/0"
    assert all(line.isprintable() for line in lines)


def test_long_line_is_not_broken_in_a_pipe() -> None:
    pipe = console(40)
    pipe.print(event_line(Event(1.0, Kind.FAILED, "default", "a", "x" * 80)), soft_wrap=True)
    assert written(pipe).endswith("x" * 80 + "\n")


def test_lines_leave_started_attempts_out() -> None:
    record, pipe = Record(), console()
    record.take_events = lambda: [Event(1.0, Kind.STARTED, "default", "a")]  # type: ignore[method-assign]
    Lines(pipe, record).show()
    assert written(pipe) == ""


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_screen_fits_the_terminal(width: int) -> None:
    terminal = console(width)
    screen = Screen(terminal, busy_record(), QUEUES)
    screen.show()
    with terminal.capture() as picture:
        terminal.print(screen.render())
    lines = [line.rstrip() for line in picture.get().splitlines()]
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    (pending,) = (line for line in lines if "pending" in line)
    assert pending.split()[1] == "12"
    assert "100" in pending
    critical, default = (len(bars) for bars in pending.split() if bars.startswith("▇"))
    assert 1 <= critical < default


def test_bars_are_ascii_where_the_terminal_is() -> None:
    terminal = Console(file=TextIOWrapper(BytesIO(), encoding="ascii"), width=80, height=24)
    screen = Screen(terminal, busy_record(), QUEUES)
    with terminal.capture() as picture:
        terminal.print(screen.render())
    assert picture.get().isascii()
    assert "====" in picture.get()


def test_screen_is_as_tall_whatever_happened() -> None:
    heights = set()
    for record in (Record(), busy_record()):
        terminal = console()
        screen = Screen(terminal, record, QUEUES)
        screen.show()
        with terminal.capture() as picture:
            terminal.print(screen.render())
        heights.add(picture.get().count("\n"))
    assert len(heights) == 1


@pytest.mark.parametrize("no_color", [False, True])
def test_terminal_gets_a_screen_with_colour_unless_it_is_unwanted(no_color: bool) -> None:
    terminal = console(terminal=True, no_color=no_color)
    with view_of(terminal, busy_record(), QUEUES) as view:
        view.show()
    assert ("\x1b[36m" in written(terminal)) is not no_color
    assert isinstance(view, Screen)


def test_dumb_terminal_gets_lines() -> None:
    dumb = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(view_of(dumb, Record(), QUEUES), Lines)


def test_summary_has_a_column_per_queue() -> None:
    pipe = console(60)
    pipe.print(summary(busy_record(), QUEUES))
    rows = {row[0]: row[1:] for line in written(pipe).splitlines() if (row := line.split())}
    assert rows["priority"] == ["6", "2"]
    assert rows["enqueued"] == ["12", "100"]
    assert rows["attempts"] == ["0", "0"]


def test_event_line_marks_its_kind() -> None:
    line = event_line(Event(12.34, Kind.ARCHIVED, "critical", "payment:charge/5", "declined"))
    assert isinstance(line, Text)
    assert line.plain == "  12.3 s  archived   critical  payment:charge/5    declined"
    assert any(span.style == "red" for span in line.spans)
