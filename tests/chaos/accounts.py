"""The balance of the ledger: what was lost, what ran again and why, what it cost, and how long it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

from tests.chaos.ledger import SECOND, Fault, Ledger, Run, Story

#: With so many crashes a task counts as a poison pill.
CRASHES_OF_POISON = 3


@dataclass(frozen=True, slots=True)
class Restart:
    """A task that was running at a fault started again so many seconds later; ``crash`` counts these of the task."""

    seconds: float
    fault: Fault
    crash: int


@dataclass(slots=True)
class Accounts:
    """The ledger's balance.

    ``few_crashes``: archived as poison pills, though fewer than three of their runs were in flight at a fault.
    ``lost``: acknowledged, never finished, not in Redis any more, and not archived after an attempt that failed.
    ``unexcused``: runs again of tasks that were not in flight at a fault. ``burned``: retries that were used up
    without a failure of the handler.
    """

    lost: list[str] = field(default_factory=list)
    archived: list[str] = field(default_factory=list)
    archived_untried: list[str] = field(default_factory=list)
    few_crashes: list[str] = field(default_factory=list)
    extra: int = 0
    excused: int = 0
    doubtful: int = 0
    unexcused: list[str] = field(default_factory=list)
    finished_again: list[str] = field(default_factory=list)
    burned: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    restarts: list[Restart] = field(default_factory=list)

    @property
    def latencies(self) -> list[float]:
        """Seconds until the task started again, of each task in flight at a fault, for its first."""
        return [restart.seconds for restart in self.restarts if restart.crash == 1]

    def first_restarts(self, of: Callable[[int], bool]) -> list[float]:
        """``latencies`` of those whose process, by its pid, is one ``of`` these."""
        return [r.seconds for r in self.restarts if r.crash == 1 and of(r.fault.pid)]

    @property
    def later_latencies(self) -> list[float]:
        """The same for the faults after its first: then a task waits, as it may be the cause."""
        return [restart.seconds for restart in self.restarts if restart.crash > 1]


def balance(ledger: Ledger, archived: Mapping[str, str], left: Iterable[str]) -> Accounts:
    """``archived`` are the tasks Redis holds as such, with their errors; ``left`` those it has anywhere else."""
    accounts, hit = Accounts(), ledger.runs_hit()
    still_there = set(left)
    for task_id, story in ledger.tasks.items():
        story.runs.sort(key=lambda run: run.started)
        if task_id in archived:
            crashes = sum(id(run) in hit for run in story.runs)
            _book_archived(accounts, task_id, story, archived[task_id], crashes)
        elif story.acked and not story.finished and task_id not in still_there:
            accounts.lost.append(task_id)
        _book_runs(accounts, task_id, story, hit)
        _book_restarts(accounts, story, hit)
        burned = max((run.retried for run in story.runs), default=0) - story.failures
        if burned > 0:
            accounts.burned[task_id] = burned
    return accounts


def _book_archived(
    accounts: Accounts, task_id: str, story: Story, error: str, crashes: int
) -> None:
    accounts.archived.append(task_id)
    if error.startswith("poison pill"):
        if crashes < CRASHES_OF_POISON:
            accounts.few_crashes.append(task_id)
    elif not (story.failures or story.finished):
        accounts.archived_untried.append(task_id)


def _book_runs(
    accounts: Accounts, task_id: str, story: Story, hit: Mapping[int, list[Fault]]
) -> None:
    excuses, doubts = 0, story.doubts
    for previous, run in pairwise(story.runs):
        excuses += id(previous) in hit
        if previous.how == "failed":
            continue
        accounts.extra += 1
        if any(earlier.how == "ok" and earlier.ended < run.started for earlier in story.runs):
            accounts.finished_again.append(task_id)
        if excuses:
            excuses -= 1
            accounts.excused += 1
        elif doubts:
            doubts -= 1
            accounts.doubtful += 1
        else:
            accounts.unexcused.append(task_id)


def _book_restarts(accounts: Accounts, story: Story, hit: Mapping[int, list[Fault]]) -> None:
    crashes = 0
    for run, following in zip_longest(story.runs, story.runs[1:]):
        fault = _caught(run, hit)
        if fault is not None:
            crashes += 1
            accounts.in_flight += 1
            if following is not None:
                seconds = max(0.0, (following.started - fault.at) / SECOND)
                accounts.restarts.append(Restart(seconds, fault, crashes))


def _caught(run: Run, hit: Mapping[int, list[Fault]]) -> Fault | None:
    """The first fault at which the handler was running."""
    return next((fault for fault in hit.get(id(run), ()) if fault.catches(run)), None)


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed; 0 of none."""
    ordered = sorted(values)
    place = math.ceil(len(ordered) * percent / 100) - 1
    return ordered[max(0, place)] if ordered else 0.0
