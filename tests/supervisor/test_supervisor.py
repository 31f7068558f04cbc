from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from asynqpy import Client, ProcessInfo, ProcessStartError, ProcessState, Supervisor, Task
from asynqpy.supervisor import back_off, process
from tests.eventually import eventually
from tests.redis_state import ask, invariants, listed

ROOT = Path(__file__).parents[2]
PROGRAMS = "tests.supervisor.programs"

#: Seconds for interpreters to start, on a busy machine.
STARTED = 30.0

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def without_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "delay", lambda in_a_row: 0.0)


@asynccontextmanager
async def supervised(program: str, processes: int = 1) -> AsyncIterator[Supervisor]:
    """A supervisor that runs, with a server in each process; in the end it stops them all."""
    supervisor = Supervisor(f"{PROGRAMS}:{program}", processes=processes)
    running = asyncio.create_task(supervisor.run())
    try:
        await eventually(lambda: in_state(supervisor, ProcessState.RUNNING), within=STARTED)
        yield supervisor
        supervisor.terminate()
        await asyncio.wait_for(running, STARTED)
    finally:
        for _ in range(3):
            supervisor.terminate()
        await asyncio.wait([running])


class Patient:
    """A supervisor of a process that runs a task, waits for it when it is told to stop, and logs signals."""

    def __init__(self, output: list[str], supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._output = output
        (self.pid,) = pids(supervisor)

    def signal_process(self) -> None:
        """As a process manager does that signals the processes beside their supervisor."""
        os.kill(self.pid, signal.SIGTERM)

    async def has_received(self, signals: int) -> None:
        """Return when the process has received so many."""

        def received() -> int:
            return sum(line.endswith("received SIGTERM") for line in self._output)

        await eventually(lambda: received() == signals, within=STARTED)


@asynccontextmanager
async def patient(redis_url: str, redis: Redis, type: str) -> AsyncIterator[Patient]:
    """One that runs a task of this type; after the block it has ended."""
    output: list[str] = []
    supervisor = Supervisor(
        f"{PROGRAMS}:patient", on_output=lambda number, line: output.append(line)
    )
    running = asyncio.create_task(supervisor.run())
    try:
        await enqueue(redis_url, type)
        await noted_by(redis, "held", 1)
        yield Patient(output, supervisor)
        await asyncio.wait_for(running, STARTED)
    finally:
        for _ in range(3):
            supervisor.terminate()
        await asyncio.wait([running])


def in_state(supervisor: Supervisor, *states: ProcessState) -> bool:
    return all(info.state in states for info in supervisor.processes)


def pids(supervisor: Supervisor) -> list[int]:
    return [info.pid for info in supervisor.processes if info.pid is not None]


def is_alive(pid: int) -> bool:
    """Whether it runs; who was orphaned may be a zombie for as long as init likes."""
    told = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(told.stdout.strip()) and not told.stdout.strip().startswith("Z")


async def enqueue(redis_url: str, type: str, count: int = 1) -> None:
    async with Client(redis_url) as client:
        await client.enqueue_many([Task(type)] * count)


async def noted(redis: Redis, name: str) -> list[int]:
    """The pids in a list."""
    return [int(pid) for pid in await ask(redis, "LRANGE", name, 0, -1)]


async def noted_by(redis: Redis, name: str, count: int) -> set[int]:
    """The processes behind at least so many entries of a list, once they are there."""

    async def enough() -> bool:
        return len(await noted(redis, name)) >= count

    await eventually(enough, within=STARTED)
    return set(await noted(redis, name))


async def test_processes_work_at_the_same_time(redis_url: str, redis: Redis) -> None:
    async with supervised("main", processes=2) as supervisor:
        await enqueue(redis_url, "hold", 2)
        assert await noted_by(redis, "held", 2) == set(pids(supervisor))
        await eventually(
            lambda: [info.running for info in supervisor.processes] == [1, 1], within=STARTED
        )
    assert len(await listed(redis, "pending")) == 2
    assert await invariants(redis) == []


async def test_supervisor_tells_how_each_process_does(redis_url: str, redis: Redis) -> None:
    async with supervised("main", processes=2) as supervisor:
        await enqueue(redis_url, "run", 20)
        await noted_by(redis, "ran", 20)
        await eventually(
            lambda: sum(info.processed for info in supervisor.processes) == 20, within=STARTED
        )
        infos = supervisor.processes
    assert [info.number for info in infos] == [1, 2]
    assert all(info.concurrency == 1 and info.cpu >= 0 and info.restarts == 0 for info in infos)
    assert [info.pid for info in supervisor.processes] == [None, None]
    assert in_state(supervisor, ProcessState.ENDED)


async def test_killed_process_is_replaced_and_tasks_go_on(redis_url: str, redis: Redis) -> None:
    async with supervised("main", processes=2) as supervisor:
        killed, other = pids(supervisor)
        os.kill(killed, signal.SIGKILL)
        await eventually(
            lambda: (
                supervisor.processes[0].restarts == 1 and in_state(supervisor, ProcessState.RUNNING)
            ),
            within=STARTED,
        )
        successor, same = pids(supervisor)
        assert same == other
        await enqueue(redis_url, "hold", 2)
        assert await noted_by(redis, "held", 2) == {successor, other}
        assert killed not in {successor, other}


async def test_process_that_ends_well_by_itself_is_started_again(
    redis: Redis, without_delays: None
) -> None:
    supervisor = Supervisor(f"{PROGRAMS}:short")
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: supervisor.processes[0].restarts >= 2, within=STARTED)
    supervisor.terminate()
    await asyncio.wait_for(running, STARTED)


async def test_restart_is_logged_with_the_reason_and_the_delay(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "asynqpy.supervisor")
    monkeypatch.setattr(back_off, "delay", lambda in_a_row: 600.0)
    async with supervised("main") as supervisor:
        (pid,) = pids(supervisor)
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: in_state(supervisor, ProcessState.WAITING), within=STARTED)
        assert 400 < supervisor.processes[0].seconds < 800
    (line,) = (text for text in caplog.messages if "again" in text)
    assert line.startswith(f"process 1 (pid {pid}) ended with SIGKILL; it is started again in ")


async def test_signal_ends_all_and_hands_running_tasks_back(redis_url: str, redis: Redis) -> None:
    supervisor = Supervisor(f"{PROGRAMS}:main", processes=2)
    running = asyncio.create_task(supervisor.run())
    await enqueue(redis_url, "hold", 2)
    children = await noted_by(redis, "held", 2)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, STARTED)
    assert not any(map(is_alive, children))
    assert len(await listed(redis, "pending")) == 2
    assert await ask(redis, "ZCARD", "asynq:servers") == 0


async def test_second_signal_aborts_handlers(redis_url: str, redis: Redis) -> None:
    async with supervised("patient") as supervisor:
        await enqueue(redis_url, "hold")
        await noted_by(redis, "held", 1)
        supervisor.terminate()
        # The servers are closed, and wait for their handlers.
        await eventually(lambda: supervisor.processes[0].concurrency == 0, within=STARTED)
        assert supervisor.processes[0].running == 1
    assert len(await listed(redis, "pending")) == 1


async def test_signal_that_came_to_all_processes_lets_handlers_finish(
    redis_url: str, redis: Redis
) -> None:
    async with patient(redis_url, redis, "wait") as worker:
        worker.supervisor.terminate()
        await worker.has_received(1)
        worker.signal_process()
        await worker.has_received(2)
        await ask(redis, "RPUSH", "go", 1)
    assert await noted(redis, "ran") == [worker.pid]


async def test_signal_may_come_to_a_process_before_its_supervisor(
    redis_url: str, redis: Redis
) -> None:
    async with patient(redis_url, redis, "wait") as worker:
        worker.signal_process()
        await worker.has_received(1)
        worker.supervisor.terminate()
        await worker.has_received(2)
        await ask(redis, "RPUSH", "go", 1)
    assert await noted(redis, "ran") == [worker.pid]


async def test_second_signal_to_all_processes_aborts_handlers(redis_url: str, redis: Redis) -> None:
    async with patient(redis_url, redis, "hold") as worker:
        worker.signal_process()
        await worker.has_received(1)
        worker.supervisor.terminate()
        await worker.has_received(2)
        worker.signal_process()
        worker.supervisor.terminate()
    assert len(await listed(redis, "pending")) == 1


async def test_third_signal_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "stop_limit", lambda report: 600.0)
    async with supervised("stubborn") as supervisor:
        supervisor.terminate()
        supervisor.terminate()
        assert in_state(supervisor, ProcessState.STOPPING)
    assert in_state(supervisor, ProcessState.ENDED)


async def test_process_that_does_not_stop_in_time_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "stop_limit", lambda report: report.shutdown_timeout + 0.1)
    async with supervised("stubborn") as supervisor:
        (pid,) = pids(supervisor)
    assert f"process 1 (pid {pid}) has not stopped in time and is killed" in caplog.messages


async def test_halted_process_hears_the_signal_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asynqpy.supervisor")
    async with supervised("main") as supervisor:
        (pid,) = pids(supervisor)
        os.kill(pid, signal.SIGSTOP)
    assert f"process 1 (pid {pid}) ended with status 0" in caplog.messages


async def test_pause_takes_no_more_tasks_and_starts_nothing_again(
    redis_url: str, redis: Redis
) -> None:
    async with supervised("main", processes=2) as supervisor:
        os.kill(os.getpid(), signal.SIGTSTP)
        await eventually(lambda: in_state(supervisor, ProcessState.PAUSED), within=STARTED)
        await enqueue(redis_url, "run")
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        await eventually(
            lambda: supervisor.processes[0].state is ProcessState.ENDED, within=STARTED
        )
        assert supervisor.processes[1].state is ProcessState.PAUSED
    assert len(await listed(redis, "pending")) == 1


async def test_pause_reaches_a_process_that_is_still_starting(redis: Redis) -> None:
    supervisor = Supervisor(f"{PROGRAMS}:slow")
    running = asyncio.create_task(supervisor.run())
    await noted_by(redis, "waiting", 1)
    await supervisor.pause()
    await ask(redis, "RPUSH", "go", 1)
    await eventually(lambda: in_state(supervisor, ProcessState.PAUSED), within=STARTED)
    supervisor.terminate()
    await asyncio.wait_for(running, STARTED)


async def test_stop_ends_a_process_that_is_still_starting(redis: Redis) -> None:
    supervisor = Supervisor(f"{PROGRAMS}:slow")
    running = asyncio.create_task(supervisor.run())
    (child,) = await noted_by(redis, "waiting", 1)
    supervisor.terminate()
    await asyncio.wait_for(running, STARTED)
    assert not is_alive(child)


async def test_stop_before_the_first_process_is_there_ends_it() -> None:
    supervisor = Supervisor(f"{PROGRAMS}:main", processes=2)
    running = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    supervisor.terminate()
    await asyncio.wait_for(running, STARTED)
    assert in_state(supervisor, ProcessState.ENDED)


async def test_cancelled_run_stops_the_processes(redis_url: str, redis: Redis) -> None:
    supervisor = Supervisor(f"{PROGRAMS}:main", processes=2)
    running = asyncio.create_task(supervisor.run())
    await enqueue(redis_url, "hold", 2)
    children = await noted_by(redis, "held", 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(is_alive, children))
    assert len(await listed(redis, "pending")) == 2


async def test_fault_of_the_supervisor_leaves_no_process_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> float:
        raise LookupError("a fault of ours")

    monkeypatch.setattr(back_off.BackOff, "after", fail)
    supervisor = Supervisor(f"{PROGRAMS}:main", processes=2)
    running = asyncio.create_task(supervisor.run())
    await eventually(lambda: in_state(supervisor, ProcessState.RUNNING), within=STARTED)
    killed, other = pids(supervisor)
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(LookupError, match="a fault of ours"):
        await asyncio.wait_for(running, STARTED)
    assert not is_alive(other)


@pytest.mark.parametrize(
    ("target", "how"),
    [("tests.supervisor.broken_program:main", "status 1"), (f"{PROGRAMS}:serverless", "status 0")],
)
async def test_program_that_never_starts_a_server_is_given_up(
    target: str, how: str, without_delays: None
) -> None:
    supervisor = Supervisor(target)
    with pytest.raises(ProcessStartError, match=rf"process 1 \(pid \d+\) ended with {how}"):
        await supervisor.run()
    assert supervisor.processes[0].restarts == 2
    assert in_state(supervisor, ProcessState.ENDED)


async def test_program_that_has_worked_is_never_given_up(
    redis: Redis, without_delays: None
) -> None:
    async with supervised("spoilt") as supervisor:
        await ask(redis, "SET", "spoilt", 1)
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        await eventually(lambda: supervisor.processes[0].restarts >= 4, within=STARTED)
        await ask(redis, "DEL", "spoilt")
        await eventually(lambda: in_state(supervisor, ProcessState.RUNNING), within=STARTED)


async def test_wrong_target_ends_all_at_once() -> None:
    supervisor = Supervisor(f"{PROGRAMS}:nothing", processes=2)
    with pytest.raises(ValueError, match="has no attribute 'nothing'"):
        await supervisor.run()
    assert [info.restarts for info in supervisor.processes] == [0, 0]


async def test_processes_of_a_killed_supervisor_shut_down(redis_url: str, redis: Redis) -> None:
    await enqueue(redis_url, "hold", 2)
    command = [sys.executable, "-m", "asynqpy", "worker", f"{PROGRAMS}:main", "--processes", "2"]
    supervisor = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, cwd=ROOT)
    children = await noted_by(redis, "held", 2)
    supervisor.kill()
    _, log = await supervisor.communicate()  # to the end of the last process
    assert log.count(b"has lost its supervisor and stops") == 2
    await eventually(lambda: not any(map(is_alive, children)), within=STARTED)
    assert len(await listed(redis, "pending")) == 2
    assert await ask(redis, "ZCARD", "asynq:servers") == 0


async def test_supervisor_runs_once() -> None:
    supervisor = Supervisor(f"{PROGRAMS}:nothing")
    with pytest.raises(ValueError):
        await supervisor.run()
    with pytest.raises(RuntimeError, match="once"):
        await supervisor.run()


@pytest.mark.parametrize(
    ("target", "processes", "error"),
    [
        ("nonsense", 1, ValueError),
        ("a:b", 0, ValueError),
        ("a:b", 1.5, TypeError),
        ("a:b", True, TypeError),
    ],
)
def test_bad_argument_is_refused(target: str, processes: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        Supervisor(target, processes=processes)


def test_repr_names_the_target() -> None:
    assert (
        repr(Supervisor("shop.worker:main", processes=3)) == "<Supervisor of 3 x shop.worker:main>"
    )


def test_process_that_was_not_started_waits() -> None:
    assert Supervisor("shop.worker:main").processes == [ProcessInfo(number=1)]
