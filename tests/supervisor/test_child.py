from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time

import pytest

from asynqpy.server import signals
from asynqpy.server.signals import Relay
from asynqpy.supervisor import child
from asynqpy.supervisor.child import Line
from asynqpy.supervisor.reports import STOP, ProcessState, Report, decode


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Relay:
    """One that has relayed nothing."""
    relay = Relay()
    for module in (signals, child):
        monkeypatch.setattr(module, "relay", relay)
    return relay


@pytest.fixture
def sent(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> list[signal.Signals]:
    """The signals that this process sends to itself, which do not come; no time passes between them."""
    sent: list[signal.Signals] = []

    def kill(pid: int, signum: signal.Signals) -> None:
        assert pid == os.getpid()
        sent.append(signum)
        if signum == signal.SIGKILL:
            raise Ended

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return sent


def test_supervisor_that_does_not_read_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    line, told = Line(theirs), 5_000
    with ours, theirs:
        for number in range(told):
            line.tell(Report(state=ProcessState.RUNNING, ended=number))
        theirs.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as reader:
            heard = [decode(text).ended for text in reader]
    assert 0 < len(heard) < told
    assert heard == list(range(len(heard)))


def test_report_to_a_supervisor_that_is_gone_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        Line(theirs).tell(Report())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"", [signal.SIGTERM, signal.SIGKILL]),
        (STOP, [signal.SIGTERM, signal.SIGKILL]),
        (STOP * 2, [signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]),
    ],
)
def test_end_of_the_supervisor_is_a_stop_unless_it_has_said_so_itself(
    words: bytes, expected: list[signal.Signals], sent: list[signal.Signals]
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(words)
        ours.close()
        with pytest.raises(Ended):
            Line(theirs).keep_talking()
    assert sent == expected


def test_supervisor_that_ended_with_reports_unread_is_gone_too(
    sent: list[signal.Signals],
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        line = Line(theirs)
        line.tell(Report())
        ours.close()
        with pytest.raises(Ended):
            line.keep_talking()
    assert sent == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize("is_installed", [True, False])
def test_runs_on_uvloop_where_that_is_installed(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = []

    async def main() -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)

    if is_installed:
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    child._run(main())
    assert [name.partition(".")[0] for name in loops] == ["uvloop" if is_installed else "asyncio"]
