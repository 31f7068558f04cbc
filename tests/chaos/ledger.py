"""The ledger: what all journals together say about each task.

A task that was acknowledged must finish. It may run again only where a run of it was *in flight at a fault*: it had
started, and had neither ended nor was its outcome in Redis, when something was done to its process (or to Redis).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.journal import EVERYBODY, Entry, JournalReader

SECOND = 1_000_000_000

#: A handler that ended so long (ns) before its process was killed may not have had its outcome written yet; nor when
#: Redis was, which may have been slow before.
UNWRITTEN = SECOND // 4
UNWRITTEN_BY_REDIS = SECOND

#: Faults after which an outcome is still written: a process that is asked to end does so in good order.
GRACEFUL = frozenset({"sigterm"})


@dataclass(slots=True)
class Run:
    """One execution of a task. ``ended`` is 0 when nothing was heard of its end."""

    started: int
    pid: int
    retried: int
    ended: int = 0
    how: str = ""


@dataclass(slots=True)
class Story:
    """What is known of a task."""

    acked: int = 0
    doubts: int = 0
    refused: str = ""
    runs: list[Run] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return any(run.how == "ok" for run in self.runs)

    @property
    def failures(self) -> int:
        return sum(run.how == "failed" for run in self.runs)


@dataclass(slots=True)
class Fault:
    """From ``at`` until ``until`` (unix ns), both included."""

    at: int
    until: int
    pid: int
    kind: str

    def catches(self, run: Run) -> bool:
        """Whether the handler was running at it."""
        return run.started <= self.until and (not run.ended or run.ended > self.at)

    def excuses(self, run: Run) -> bool:
        """Whether the run was in flight at it: its outcome may have been lost with it."""
        earliest = self.at - self._unwritten
        return run.started <= self.until and (not run.ended or run.ended >= earliest)

    @property
    def _unwritten(self) -> int:
        if self.kind in GRACEFUL:
            return 0
        return UNWRITTEN_BY_REDIS if self.pid == EVERYBODY else UNWRITTEN


class Ledger:
    """Reads the journals of a folder as they grow."""

    def __init__(self, folder: Path | None = None) -> None:
        self._reader = JournalReader(folder) if folder else None
        self.tasks: dict[str, Story] = defaultdict(Story)
        self.faults: list[Fault] = []
        self.ready: set[int] = set()
        self.notes: list[str] = []
        self.acked = self.started = self.finished = 0
        self._open: dict[tuple[str, int], list[Run]] = {}

    def update(self) -> None:
        """Take in what was written since the last time."""
        if self._reader is not None:
            self.add(self._reader.news())

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            getattr(self, f"_{entry.kind}")(entry)

    def running(self, pid: int) -> int:
        """How many runs of this process have started and not ended, as far as its journal tells."""
        return sum(len(runs) for (_, whose), runs in self._open.items() if whose == pid)

    def runs_hit(self) -> dict[int, list[Fault]]:
        """The faults at which a run was in flight, by the identity (``id``) of each run that was."""
        faults = defaultdict(list)
        for fault in self.faults:
            faults[fault.pid].append(fault)
        hit = defaultdict(list)
        for story in self.tasks.values():
            for run in story.runs:
                for fault in (*faults.get(run.pid, ()), *faults.get(EVERYBODY, ())):
                    if fault.excuses(run):
                        hit[id(run)].append(fault)
        return hit

    def _acked(self, entry: Entry) -> None:
        self.acked += 1
        self.tasks[entry.task_id].acked = entry.at

    def _uncertain(self, entry: Entry) -> None:
        self.tasks[entry.task_id].doubts += 1

    def _refused(self, entry: Entry) -> None:
        self.tasks[entry.task_id].refused = entry.extra or "refused"

    def _ready(self, entry: Entry) -> None:
        self.ready.add(entry.pid)

    def _start(self, entry: Entry) -> None:
        self.started += 1
        run = Run(entry.at, entry.pid, int(entry.extra))
        self.tasks[entry.task_id].runs.append(run)
        self._open.setdefault((entry.task_id, entry.pid), []).append(run)

    def _end(self, entry: Entry) -> None:
        running = self._open[entry.task_id, entry.pid]
        run = running.pop(0)
        if not running:
            del self._open[entry.task_id, entry.pid]
        run.ended, run.how = entry.at, entry.extra.partition(" ")[2]
        story = self.tasks[entry.task_id]
        self.finished += run.how == "ok" and sum(r.how == "ok" for r in story.runs) == 1

    def _fault(self, entry: Entry) -> None:
        self.faults.append(Fault(entry.at, entry.at, entry.pid, entry.extra))

    def _mended(self, entry: Entry) -> None:
        same = (f for f in reversed(self.faults) if (f.pid, f.kind) == (entry.pid, entry.extra))
        next(same).until = entry.at

    def _note(self, entry: Entry) -> None:
        self.notes.append(entry.extra)
