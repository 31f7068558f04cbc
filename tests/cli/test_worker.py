"""The command as users run it: in a pipe, on a terminal, and with a target that cannot be run."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from asynqpy import Client, Task
from asynqpy.cli.worker import _log_of_processes, cores
from tests.eventually import eventually
from tests.redis_state import ask, listed

PATIENCE = 30.0
WORKING = re.compile(r"process \d \(pid (\d+)\) works")

PROGRAM = """
import asyncio
import logging
import os

from asynqpy import Server


async def hold(task):
    print("holding", task.id, flush=True)
    await asyncio.Event().wait()


async def main():
    logging.basicConfig(level=logging.INFO)
    await Server(os.environ["REDIS_URL"], task_check_interval=0.05, shutdown_timeout=0.1).run(hold)
"""


class Worker:
    """The command in a folder of its own, its output in a pipe or on a terminal of 100 columns."""

    def __init__(self, folder: Path, redis_url: str, *arguments: str, on_terminal: bool) -> None:
        self._source, sink = pty.openpty() if on_terminal else os.pipe()
        if on_terminal:
            fcntl.ioctl(sink, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "asynqpy", "worker", *arguments],
            cwd=folder,
            env={**os.environ, "REDIS_URL": redis_url, "TERM": "xterm", "PYTHONPATH": _root()},
            stdin=sink if on_terminal else subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        os.close(sink)
        self._read: list[bytes] = []
        self._reader = threading.Thread(target=self._read_on)
        self._reader.start()

    @property
    def output(self) -> str:
        return b"".join(self._read).decode(errors="replace").replace("\r\n", "\n")

    def send(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def press_ctrl_c(self) -> None:
        """What a terminal does with it: the signal goes to the whole process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> int:
        """Its exit status, once it has ended."""
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            os.close(self._source)

    def _read_on(self) -> None:
        try:
            while data := os.read(self._source, 65_536):
                self._read.append(data)
        except OSError:
            pass  # how Linux says that the other side of a terminal is closed


def _root() -> str:
    return str(Path(__file__).parents[2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@contextmanager
def ended(worker: Worker) -> Iterator[Worker]:
    """Ends it with the block by SIGTERM, and wants status 0."""
    try:
        yield worker
    finally:
        worker.send(signal.SIGTERM)
        status = worker.end()
    assert status == 0, worker.output


async def enqueue(redis_url: str, *task_ids: str) -> None:
    async with Client(redis_url) as client:
        for task_id in task_ids:
            await client.enqueue(Task("hold"), task_id=task_id)


async def test_worker_in_a_pipe_logs_a_line_per_change(folder: Path, redis_url: str) -> None:
    worker = Worker(folder, redis_url, "program:main", "--processes", "2", on_terminal=False)
    with ended(worker):
        await eventually(lambda: len(WORKING.findall(worker.output)) == 2, within=PATIENCE)
    pids = sorted(WORKING.findall(worker.output))
    gone = re.findall(r"process \d \(pid (\d+)\) ended with status 0", worker.output)
    assert sorted(gone) == pids
    assert "asynqpy: stopping" in worker.output
    assert "\x1b" not in worker.output


async def test_one_process_is_the_default(folder: Path, redis_url: str) -> None:
    worker = Worker(folder, redis_url, "program:main", on_terminal=False)
    with ended(worker):
        await eventually(lambda: WORKING.search(worker.output), within=PATIENCE)
    assert worker.output.count("works") == 1


async def test_worker_hands_running_tasks_back_at_sigterm(
    folder: Path, redis_url: str, redis: Redis
) -> None:
    await enqueue(redis_url, "a", "b")
    worker = Worker(folder, redis_url, "program:main", "-p", "2", on_terminal=False)
    with ended(worker):
        await eventually(lambda: worker.output.count("holding") == 2, within=PATIENCE)
    assert len(await listed(redis, "pending")) == 2
    assert await ask(redis, "ZCARD", "asynq:servers") == 0


async def test_terminal_has_a_line_per_process_below_the_output(
    folder: Path, redis_url: str
) -> None:
    await enqueue(redis_url, "a")
    worker = Worker(folder, redis_url, "program:main", "-p", "2", on_terminal=True)
    with ended(worker):
        await eventually(lambda: "holding a" in worker.output, within=PATIENCE)
        await eventually(lambda: "1 of 10" in worker.output, within=PATIENCE)
    assert re.search(r"\[[12]\] \x1b\[0mholding a", worker.output)
    assert re.search(r"1  +\d+  \x1b\[32mrunning \d+ s", worker.output)
    assert re.search(r"2  +\d+  \x1b\[32mrunning \d+ s", worker.output)
    assert worker.output.rstrip().endswith("\x1b[2K"), "the lines are still there"
    assert worker.output.rindex("\x1b[?25h") > worker.output.rindex("\x1b[?25l")


async def test_ctrl_c_stops_all_in_good_order(folder: Path, redis_url: str, redis: Redis) -> None:
    await enqueue(redis_url, "a")
    worker = Worker(folder, redis_url, "program:main", on_terminal=True)
    await eventually(lambda: "holding a" in worker.output, within=PATIENCE)
    worker.press_ctrl_c()
    assert worker.end() == 0
    assert worker.output.count("received SIG") == 1
    assert "Traceback" not in worker.output
    assert len(await listed(redis, "pending")) == 1


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("program", "a target is written"),
        ("nothing:main", "no module named 'nothing'"),
        ("program:hold", "program:hold cannot be called without arguments"),
    ],
)
def test_wrong_target_is_a_line_and_status_2(
    folder: Path, redis_url: str, target: str, text: str
) -> None:
    worker = Worker(folder, redis_url, target, "-p", "2", on_terminal=False)
    assert worker.end() == 2
    line = worker.output.splitlines()[-1]
    assert line.startswith(f"asynqpy: {text}")
    assert "Traceback" not in worker.output


def test_program_that_cannot_be_imported_is_status_1(folder: Path, redis_url: str) -> None:
    (folder / "broken.py").write_text("raise LookupError('no configuration')")
    worker = Worker(folder, redis_url, "broken:main", on_terminal=False)
    assert worker.end() == 1
    assert worker.output.count("LookupError: no configuration") == 3
    assert "broken:main does not start a server: process 1" in worker.output.splitlines()[-1]


async def test_processes_shut_down_when_their_screen_is_killed(
    folder: Path, redis_url: str, redis: Redis
) -> None:
    await enqueue(redis_url, "a")
    worker = Worker(folder, redis_url, "program:main", on_terminal=True)
    await eventually(lambda: "holding a" in worker.output, within=PATIENCE)
    worker.send(signal.SIGKILL)
    assert worker.end() == -signal.SIGKILL

    async def is_handed_back() -> bool:
        return bool(await listed(redis, "pending"))

    await eventually(is_handed_back, within=PATIENCE)


def test_log_that_nobody_reads_any_more_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    monkeypatch.setattr(sys, "stderr", Closed())
    with _log_of_processes():
        logging.getLogger("asynqpy.supervisor").warning("heard by nobody")


def test_cores_are_those_that_may_be_used() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
