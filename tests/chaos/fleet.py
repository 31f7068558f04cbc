"""A fleet of worker processes: started, killed, stopped and replaced, each by its pid.

Every fault goes into the journal. On Linux no worker survives the harness.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from tests.chaos.engines import ENGINES
from tests.chaos.journal import Journal
from tests.chaos.ledger import Ledger
from tests.redis_process import end_with_parent

ROOT = Path(__file__).parents[2]
_POLL = 0.005


class Worker:
    """One process. ``wanted`` is whether it should be alive."""

    def __init__(self, engine: str, command: list[str], log: Path) -> None:
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        self.engine = engine
        self.log = log
        self.wanted = True

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    async def ended(self, within: float = 60.0) -> int:
        """Its exit status; ``TimeoutError`` when it lives on."""
        deadline = time.monotonic() + within
        while (status := self.process.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"worker {self.pid} has not ended within {within:g} s")
            await asyncio.sleep(_POLL)
        return status


class Fleet:
    """``config`` is that of ``worker.py``; ``start`` may override parts of it for some workers."""

    def __init__(
        self, engine: str, config: dict[str, Any], folder: Path, faults: Journal, ledger: Ledger
    ) -> None:
        self._engine = engine
        self._commands: dict[str, list[str]] = {}
        self._config = config
        self._folder = folder
        self._faults = faults
        self._ledger = ledger
        self._numbers = count(1)
        self.workers: list[Worker] = []
        self.deaths: list[str] = []

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive and worker.wanted]

    def start(self, number: int = 1, *, engine: str = "", **config: Any) -> list[Worker]:
        engine = engine or self._engine
        started = [self._start(engine, self._config | config) for _ in range(number)]
        self.workers += started
        return started

    def _start(self, engine: str, config: dict[str, Any]) -> Worker:
        name = f"worker-{next(self._numbers):03}"
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(config))
        if engine not in self._commands:
            self._commands[engine] = ENGINES[engine]()
        command = [*self._commands[engine], str(path)]
        return Worker(engine, command, self._folder / f"{name}.log")

    async def ready(self, workers: list[Worker] | None = None, within: float = 30.0) -> None:
        """Wait until these, or all, take tasks. ``RuntimeError`` when one ends or does not get there."""
        deadline = time.monotonic() + within
        waiting = list(self.alive if workers is None else workers)
        while waiting:
            self._ledger.update()
            waiting = [worker for worker in waiting if worker.pid not in self._ledger.ready]
            for worker in waiting:
                if not worker.is_alive or time.monotonic() > deadline:
                    raise RuntimeError(f"worker {worker.pid} did not start: {tail(worker.log)}")
            await asyncio.sleep(0.02)

    async def kill(self, worker: Worker) -> None:
        """SIGKILL, to the end."""
        await self._end(worker, signal.SIGKILL, 10.0)

    async def terminate(self, worker: Worker, within: float = 60.0) -> float:
        """SIGTERM; answers after how many seconds it had ended. One that does not is killed: ``TimeoutError``."""
        began = time.monotonic()
        try:
            status = await self._end(worker, signal.SIGTERM, within)
        except TimeoutError:
            await self.kill(worker)
            raise
        if status:
            self.deaths.append(f"worker {worker.pid} ended with {status} after SIGTERM")
        return time.monotonic() - began

    async def _end(self, worker: Worker, how: signal.Signals, within: float) -> int:
        worker.wanted = False
        kind = how.name.lower()
        self._faults.write("fault", extra=kind, pid=worker.pid)
        worker.process.send_signal(how)
        status = await worker.ended(within)
        self._faults.write("mended", extra=kind, pid=worker.pid)
        return status

    def freeze(self, worker: Worker) -> None:
        """SIGSTOP: it stands still until ``thaw``."""
        self._faults.write("fault", extra="sigstop", pid=worker.pid)
        worker.process.send_signal(signal.SIGSTOP)

    def thaw(self, worker: Worker) -> None:
        worker.process.send_signal(signal.SIGCONT)
        self._faults.write("mended", extra="sigstop", pid=worker.pid)

    def bury(self) -> list[Worker]:
        """Those that have died by themselves since the last call; a scenario that did not expect it has a breach."""
        dead = [worker for worker in self.workers if worker.wanted and not worker.is_alive]
        for worker in dead:
            worker.wanted = False
            status = worker.process.returncode
            self.deaths.append(f"worker {worker.pid} ended by itself with {status}")
        return dead

    async def stop(self) -> None:
        """End all that live in good order. Not a fault of the scenario: it is over."""
        self.bury()
        living = self.alive
        for worker in living:
            worker.wanted = False
            worker.process.send_signal(signal.SIGCONT)
            worker.process.terminate()
        for worker in living:
            try:
                if status := await worker.ended(30.0):
                    self.deaths.append(f"worker {worker.pid} ended with {status} at the end")
            except TimeoutError:
                self.deaths.append(f"worker {worker.pid} did not end within 30 s")

    def kill_all(self) -> None:
        """Whatever happened: leave nobody behind."""
        for worker in self.workers:
            if worker.is_alive:
                worker.process.kill()
                worker.process.wait()


def tail(log: Path, characters: int = 1000) -> str:
    return log.read_text(errors="replace")[-characters:]
