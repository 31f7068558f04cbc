from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from asynqpy.supervisor.process import End, OnOutput, Process
from asynqpy.supervisor.reports import ProcessInfo, ProcessState
from tests.eventually import eventually
from tests.redis_state import ask

PROGRAMS = "tests.supervisor.programs"

#: Seconds for an interpreter to start, on a busy machine.
STARTED = 30.0

pytestmark = pytest.mark.usefixtures("environment")


class Ready:
    """Counts how often a process became ready."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, process: Process) -> None:
        self.times += 1


def make(program: str, ready: Ready | None = None, on_output: OnOutput | None = None) -> Process:
    return Process(3, f"{PROGRAMS}:{program}", on_ready=ready or Ready(), on_output=on_output)


def program_of(process: Process) -> str:
    """The name of what runs in it."""
    return os.path.basename(_ask_ps(process, "comm="))


def command_of(process: Process) -> str:
    """What runs in it, with all that it was given."""
    return _ask_ps(process, "args=")


def _ask_ps(process: Process, what: str) -> str:
    command = ["ps", "-ww", "-o", what, "-p", str(process.info.pid or 0)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


async def is_running(process: Process) -> None:
    await eventually(lambda: process.info.state is ProcessState.RUNNING, within=STARTED)


async def stopped(process: Process, running: asyncio.Task[End]) -> End:
    process.terminate()
    return await asyncio.wait_for(running, STARTED)


async def test_child_has_a_pid_and_a_server_until_it_ends() -> None:
    ready = Ready()
    process = make("main", ready)
    assert str(process) == "process 3"
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    info = process.info
    assert str(process) == f"process 3 (pid {info.pid})"
    assert (info.concurrency, info.restarts, ready.times) == (1, 0, 1)
    end = await stopped(process, running)
    assert end[2:] == (True, "")
    assert end.how == f"process 3 (pid {info.pid}) ended with status 0"
    assert 0 < end.lived < STARTED
    assert (process.info.pid, process.info.concurrency) == (None, 0)


async def test_next_child_starts_from_nothing() -> None:
    ready = Ready()
    process = make("short", ready)
    ends = [await process.run_once(), await process.run_once()]
    assert [end.was_ready for end in ends] == [True, True]
    assert ends[0].how != ends[1].how
    assert (process.info.restarts, ready.times) == (1, 2)


async def test_child_without_a_server_was_never_ready() -> None:
    ready = Ready()
    end = await make("serverless", ready).run_once()
    assert (end.was_ready, end.refused, ready.times) == (False, "", 0)
    assert end.how.endswith("ended with status 0")


async def test_child_that_cannot_run_its_target_says_why() -> None:
    end = await make("nothing").run_once()
    assert end.refused == f"module {PROGRAMS!r} has no attribute 'nothing'"
    assert end.how.endswith("ended with status 2")
    assert not end.was_ready


async def test_interpreter_that_cannot_be_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    end = await make("main").run_once()
    assert end.how.startswith("process 3 could not be started: ")
    assert "/nowhere/python" in end.how
    assert (end.lived, end.was_ready) == (0, False)


async def test_signal_that_ended_a_child_is_named() -> None:
    process = make("main")
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    assert process.info.pid is not None
    os.kill(process.info.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(running, STARTED)).how.endswith("ended with SIGKILL")


async def test_child_is_stopped_that_is_only_just_being_started() -> None:
    process = make("slow")
    running = asyncio.create_task(process.run_once())
    await asyncio.sleep(0)
    assert (process.info.state, process.info.pid) == (ProcessState.STARTING, None)
    assert (await stopped(process, running)).how.endswith("ended with SIGTERM")


async def test_program_that_obeys_signals_by_itself_gets_sigterm() -> None:
    process = make("by_hand")
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    assert (await stopped(process, running)).how.endswith("ended with status 0")


async def test_child_that_does_not_listen_gets_sigterm() -> None:
    process = make("replaced")
    running = asyncio.create_task(process.run_once())
    await eventually(lambda: program_of(process) == "sleep", within=STARTED)
    assert (await stopped(process, running)).how.endswith("ended with SIGTERM")


async def test_child_that_left_unread_what_it_was_told_gets_sigterm() -> None:
    process = make("replaced_unheard")
    running = asyncio.create_task(process.run_once())
    await eventually(lambda: "MSG_PEEK" in command_of(process), within=STARTED)
    assert (await stopped(process, running)).how.endswith("ended with SIGTERM")


async def test_child_with_one_server_after_another_is_running_again(redis: Redis) -> None:
    process = make("one_after_another")
    running = asyncio.create_task(process.run_once())
    await eventually(lambda: process.info.state is ProcessState.STOPPING, within=STARTED)
    await ask(redis, "RPUSH", "go", 1)
    await is_running(process)
    await stopped(process, running)


async def test_output_comes_line_by_line_with_the_number() -> None:
    lines: list[tuple[int, str]] = []
    process = make("talkative", on_output=lambda *line: lines.append(line))
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    await stopped(process, running)
    assert {number for number, _ in lines} == {3}
    texts = [text for _, text in lines]
    assert {"to stdout", "number 3", "WARNING shop: to the log"} <= set(texts)


async def test_shared_output_has_the_number_in_what_is_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = make("talkative")
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    await stopped(process, running)
    assert "[3] WARNING shop: to the log" in capfd.readouterr().err.splitlines()


async def test_output_goes_on_when_a_line_could_not_be_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(number: int, line: str) -> None:
        raise LookupError(line)

    process = make("talkative", on_output=fail)
    running = asyncio.create_task(process.run_once())
    await is_running(process)
    await stopped(process, running)
    failed = [text for text in caplog.messages if text.startswith("on_output failed for a line")]
    assert len(failed) >= 3


async def test_last_words_of_a_child_are_heard() -> None:
    lines: list[str] = []
    target = "tests.supervisor.broken_program:main"
    process = Process(1, target, on_ready=Ready(), on_output=lambda _, line: lines.append(line))
    await process.run_once()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: the configuration is broken"


async def test_process_tells_how_long_it_waits_still() -> None:
    process = make("main")
    assert process.info == ProcessInfo(number=3)
    process.wait(100)
    waiting = process.info
    process.finish()
    assert (waiting.state, process.info.state) == (ProcessState.WAITING, ProcessState.ENDED)
    assert 90 < waiting.seconds <= 100


async def test_signals_to_nobody_are_harmless() -> None:
    process = make("main")
    process.pause()
    process.terminate()
    assert process.info.pid is None
