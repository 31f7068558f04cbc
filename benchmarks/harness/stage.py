"""Runs contenders on the benchmark's Redis: fill, work, produce. What a question needs to take a sample."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.contenders import FOLDER
from benchmarks.harness.installing import Program
from benchmarks.harness.options import Options
from benchmarks.harness.processes import ContenderError, Process
from benchmarks.harness.records import Sample
from benchmarks.harness.redis_server import BenchRedis, Spent

#: Seconds that a worker has to become ready: a peer imports a lot, and starts processes.
READY = 60.0

#: Seconds that a million tasks have to be enqueued.
FILLING = 600.0

#: Tasks of the trial run that tells how many a round may have.
TRIAL = 200

_NOTHING: Mapping[str, str] = {}


@dataclass
class Stage:
    """The Redis, the programs by the name of their contender, and how much is asked."""

    redis: BenchRedis
    programs: dict[str, Program]
    options: Options
    _paces: dict[str, float] = field(default_factory=dict)

    @property
    def patience(self) -> float:
        """Seconds that a round may take: far longer than it should."""
        return 60.0 + 10.0 * self.options.seconds

    def fill(
        self, program: Program, tasks: int, environment: Mapping[str, str] = _NOTHING
    ) -> float:
        """Leave nothing in Redis but the contender's tasks; answers how long they took to be enqueued, s."""
        self.redis.flush()
        return self.add(program, tasks, environment)

    def add(self, program: Program, tasks: int, environment: Mapping[str, str] = _NOTHING) -> float:
        """Put tasks beside what is there."""
        filler = self.programs[program.contender.filler or program.contender.name]
        answer = self.produce(filler, "fill", tasks, environment=environment, timeout=FILLING)
        return float(answer["seconds"])

    def produce(
        self,
        program: Program,
        mode: str,
        *arguments: int,
        environment: Mapping[str, str] = _NOTHING,
        timeout: float = 0.0,
    ) -> dict[str, Any]:
        """What a producer answers. Raises ``NoSuchMode`` or ``ContenderError``."""
        with self.producer(program, mode, *arguments, environment=environment) as producer:
            answer = producer.answer(timeout or self.patience)
            producer.wait(READY)
        return answer

    def producer(
        self,
        program: Program,
        mode: str,
        *arguments: int,
        environment: Mapping[str, str] = _NOTHING,
    ) -> Process:
        command = [*program.producer, self.redis.url, mode, *map(str, arguments)]
        return _start(program, command, environment)

    @contextmanager
    def worker(
        self,
        program: Program,
        workload: str,
        concurrency: int,
        tasks: int,
        environment: Mapping[str, str] = _NOTHING,
    ) -> Iterator[Process]:
        """A worker that is ready."""
        with tempfile.NamedTemporaryFile(prefix="bench-journal-") as journal:
            command = [*program.worker, self.redis.url, workload, str(concurrency), str(tasks)]
            surroundings = {**environment, "BENCH_JOURNAL": journal.name}
            with _start(program, command, surroundings) as process:
                process.expect("ready", READY)
                yield process

    def work(
        self,
        program: Program,
        workload: str,
        concurrency: int,
        tasks: int,
        environment: Mapping[str, str] = _NOTHING,
    ) -> Sample:
        """Let a worker process so many tasks.

        Answers ``rate`` (tasks/s), what Redis spent on a task, ``redis_us``, ``script_us`` (µs) and ``commands``, and
        ``share``: how near the rate is to what Redis alone would allow, 1 / ``redis_us``, in percent.
        """
        self.redis.start_counting()
        with self.worker(program, workload, concurrency, tasks, environment) as process:
            seconds = float(process.answer(self.patience)["seconds"])
            process.wait(READY)
        return _sample(tasks, seconds, self.redis.spent())

    def process(self, program: Program, workload: str, concurrency: int) -> Sample:
        """Fill and work, with as many tasks as the contender's pace allows."""

        def run(tasks: int) -> Sample:
            self.fill(program, tasks)
            return self.work(program, workload, concurrency, tasks)

        key = f"{program.contender.name} {workload} {concurrency}"
        return run(self.tasks_for(key, lambda: run(min(TRIAL, self.options.tasks))["rate"]))

    def tasks_for(self, key: str, trial: Callable[[], float]) -> int:
        """How many tasks a round has: those asked for, but fewer where ``trial`` (tasks/s) says that it takes too long.

        The trial is run once for each key; it also warms up what is read from disk.
        """
        if key not in self._paces:
            self._paces[key] = trial()
        affordable = int(self._paces[key] * self.options.seconds) // 100 * 100
        return min(self.options.tasks, max(self.options.fewest, affordable))


def _start(program: Program, command: list[str], environment: Mapping[str, str]) -> Process:
    surroundings = {**program.contender.environment, **environment}
    return Process(command, surroundings, FOLDER / program.contender.home)


def _sample(tasks: int, seconds: float, spent: Spent) -> Sample:
    if seconds <= 0:
        raise ContenderError(f"{tasks} tasks in {seconds} s")
    rate, redis_us = tasks / seconds, spent.cpu_us / tasks
    return {
        "rate": rate,
        "redis_us": redis_us,
        "share": rate * redis_us / 1e4,
        "script_us": spent.script_us / tasks,
        "commands": spent.commands / tasks,
        "tasks": tasks,
    }
