from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from asynqpy.cli.worker_view import Screen, cells, span, table
from asynqpy.supervisor.reports import ProcessInfo, ProcessState

PROCESSES = [
    ProcessInfo(
        number=1,
        pid=4711,
        state=ProcessState.RUNNING,
        seconds=125.9,
        running=7,
        concurrency=50,
        processed=1_234_567,
        per_second=8123.4,
        cpu=0.987,
    ),
    ProcessInfo(number=2, pid=4712, state=ProcessState.STARTING, seconds=0.4, restarts=2),
    ProcessInfo(number=3, state=ProcessState.WAITING, seconds=3.7, restarts=3),
    ProcessInfo(number=4, state=ProcessState.ENDED, seconds=9.0),
]


def terminal(width: int = 80) -> Console:
    return Console(
        file=StringIO(),
        width=width,
        height=24,
        force_terminal=True,
        color_system="standard",
        highlight=False,
        _environ={"TERM": "xterm"},
    )


def plain(process: ProcessInfo) -> list[str]:
    return [str(cell) for cell in cells(process)]


def drawn(width: int) -> list[str]:
    console = Console(file=StringIO(), width=width)
    with console.capture() as picture:
        console.print(table(PROCESSES))
    return [line.rstrip() for line in picture.get().splitlines()]


def test_process_at_work_tells_all() -> None:
    expected = ["1", "4711", "running 2 min 5 s", "7 of 50", "1,234,567", "8,123", "99%", ""]
    assert plain(PROCESSES[0]) == expected


def test_process_without_a_server_tells_its_state() -> None:
    assert plain(PROCESSES[1]) == ["2", "4712", "starting 0 s", "", "", "", "", "2"]


def test_process_that_stops_tells_how_many_handlers_it_waits_for() -> None:
    process = ProcessInfo(
        number=5, pid=4713, state=ProcessState.STOPPING, seconds=2, running=3, processed=12
    )
    assert plain(process) == ["5", "4713", "stopping 2 s", "3", "12", "0", "0%", ""]


def test_process_that_is_away_tells_when_it_is_started_again() -> None:
    assert plain(PROCESSES[2]) == ["3", "", "waiting 3 s", "", "", "", "", "3"]


def test_process_that_does_not_come_back_has_ended() -> None:
    assert plain(PROCESSES[3]) == ["4", "", "ended", "", "", "", "", ""]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_each_process_has_a_line(width: int) -> None:
    heading, *lines = drawn(width)
    assert heading.split()[:3] == ["process", "pid", "state"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert lines[0].split()[-1] == "99%"


def test_lines_of_a_narrow_terminal_stay_lines() -> None:
    assert len(drawn(40)) == 5


@pytest.mark.parametrize("state", ProcessState)
def test_each_state_has_its_colour(state: ProcessState) -> None:
    cell = cells(ProcessInfo(number=1, state=state))[2]
    assert isinstance(cell, Text)
    assert cell.style


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_span_has_the_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_screen_shows_the_lines_below_what_processes_write() -> None:
    console = terminal()
    with Screen(console) as screen:
        screen.show(PROCESSES)
        screen.print(2, "a line \x1b[31min red\x1b[0m [bold]as it is")
    assert isinstance(console.file, StringIO)
    written = console.file.getvalue()
    assert "\x1b[31min red" in written
    assert "[bold]as it is" in written
    assert "[2] " in written
    assert written.index("4711") < written.index("a line") < written.rindex("4711")
