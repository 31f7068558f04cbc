from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.harness import installing
from benchmarks.harness.contenders import Contender
from benchmarks.harness.installing import (
    NotInstalled,
    Program,
    install,
    install_all,
    last_words,
)
from benchmarks.harness.processes import ContenderError, NoSuchMode, Process
from tests.eventually import eventually

SOON = 30.0


def running(program: str) -> Process:
    return Process([sys.executable, "-c", program], {})


def test_a_process_is_heard_and_spoken_to() -> None:
    with running('print("ready"); print("{\\"got\\": " + input() + "}")') as process:
        process.expect("ready", SOON)
        process.say("7")
        assert process.answer(SOON) == {"got": 7}
        process.wait(SOON)


def test_the_last_words_of_one_that_fails_are_its_reason() -> None:
    reason = pytest.raises(ContenderError, match="ended with 1: out of luck")
    with running('raise SystemExit("out of luck")') as process, reason:
        process.hear(SOON)


def test_status_three_says_that_there_is_no_such_way() -> None:
    with running("raise SystemExit(3)") as process, pytest.raises(NoSuchMode):
        process.hear(SOON)


def test_one_that_says_something_else_is_refused() -> None:
    refused = pytest.raises(ContenderError, match="'hello' instead of 'ready'")
    with running('print("hello")') as process, refused:
        process.expect("ready", SOON)


def test_one_that_is_silent_is_given_up_and_ended() -> None:
    with running("input()") as process:
        with pytest.raises(ContenderError, match="no answer"):
            process.hear(0.0)
        assert process.is_running
    assert not process.is_running


async def test_its_children_end_with_it() -> None:
    parent = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid); input()"
    with running(parent) as process:
        pid = process.hear(SOON)
        assert _state(pid)
    await eventually(lambda: _state(pid) in {"", "Z"})


def _state(pid: str) -> str:
    """Of a process as ``ps`` has it; nothing when it is gone."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
    return said.stdout.strip()[:1]


def test_one_that_cannot_be_installed_is_skipped_with_the_reason() -> None:
    ours = Contender(name="asynqpy", title="asynqpy", kind="own", questions=())
    absent = Contender(name="absent", title="absent", kind="own", questions=(), package="no-such")
    told: list[str] = []
    programs, reasons = install_all([ours, absent], told.append)
    assert list(programs) == ["asynqpy"]
    assert "no-such" in reasons["absent"]
    assert sorted(told) == ["absent", "asynqpy"]
    with pytest.raises(NotInstalled):
        install(absent)


def test_what_nobody_expected_in_an_installation_skips_only_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def install_or_break(contender: Contender) -> Program:
        if contender.name == "bad":
            raise OSError("no space")
        return Program(contender, (), (), "1")

    monkeypatch.setattr(installing, "install", install_or_break)
    pair = [Contender(name=name, title=name, kind="own", questions=()) for name in ("bad", "good")]
    programs, reasons = install_all(pair)
    assert list(programs) == ["good"]
    assert reasons == {"bad": "OSError: no space"}


def test_last_words_are_the_last_line_that_says_something() -> None:
    assert last_words("Traceback\n  File\nValueError: no\n\n") == "ValueError: no"
    assert last_words(" \n") == "it failed without a word"
