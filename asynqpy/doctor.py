"""The Doctor: checks the invariants of queues, and heals what breaks them, whoever broke it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.findings import Finding, Problem
from asynqpy.options import check_queue

OnProgress: TypeAlias = Callable[[int, int], object]

#: Findings of one problem that a report keeps.
_KEPT = 100


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What an examination found, or a healing did. ``print`` it for a table.

    Counts are exact. Of each problem ``findings`` keeps the first 100, so that a report of millions is small too.
    """

    #: Whether what was found was to be healed.
    is_healing: bool
    #: The queues that were looked at.
    queues: Sequence[str]
    #: How many tasks they have.
    tasks: int
    #: How often each problem was found.
    problems: Mapping[Problem, int]
    #: How often each was found and not healed; after an examination the same.
    unhealed: Mapping[Problem, int]
    findings: Sequence[Finding]
    #: How long it took, s.
    duration: float

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong now: nothing was found, or all of it was healed."""
        return not self.unhealed

    @property
    def invariants(self) -> Mapping[str, int]:
        """How often each of ``I1`` to ``I8`` was found broken; only those that were."""
        counts: Counter[str] = Counter()
        for problem, count in self.problems.items():
            counts[problem.invariant] += count
        return dict(sorted(counts.items()))

    def __str__(self) -> str:
        looked = f"{_count(self.tasks, 'task')} of {_count(len(self.queues), 'queue')}"
        title = f"{looked} looked at in {self.duration:.1f} s: "
        if not self.problems:
            return f"{title}healthy"
        return "\n".join([f"{title}{self._summary()}", *self._table()])

    def _summary(self) -> str:
        found, left = sum(self.problems.values()), sum(self.unhealed.values())
        if not self.is_healing:
            return f"{_count(found, 'problem')} found, nothing changed"
        return f"{_count(found, 'problem')} found, {found - left:,} healed"

    def _table(self) -> list[str]:
        """A line for each problem, and below it an example or two."""
        lines = []
        for problem, count in sorted(self.problems.items(), key=lambda item: item[0].invariant):
            left = self.unhealed.get(problem, 0)
            rest = f", {left:,} left" if self.is_healing and left else ""
            lines.append(f"  {problem.invariant}  {count:>9,}  {problem.text}{rest}")
            examples = [finding for finding in self.findings if finding.problem is problem][:2]
            lines += [f"                   {_example(finding)}" for finding in examples]
        return lines


class Doctor:
    """Looks for what crashes, evictions and other programs have left behind in queues, and puts it right.

        async with Doctor("redis://localhost:6379") as doctor:
            print(await doctor.examine())
            print(await doctor.heal())

    Clients and servers, also Go's, may go on meanwhile: whatever looks wrong is looked at again by a script that acts
    in the same step, and tasks in the hands of a worker are left to it. ``redis`` is as for ``Client``.
    """

    def __init__(self, redis: RedisSource) -> None:
        self._broker = Broker(redis)

    def __repr__(self) -> str:
        return f"<Doctor {self._broker!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def examine(
        self, queues: Iterable[str] | None = None, *, on_progress: OnProgress | None = None
    ) -> DoctorReport:
        """Tell what is wrong, and change nothing.

        ``queues`` are names; default every queue that has a key, registered or not. ``on_progress(done, total)`` is
        called now and then with estimates of the work, at last with ``done == total``. Raises ``BrokerError``, and
        ``ValueError`` or ``TypeError`` for queues that are no names.
        """
        return await self._search(queues, on_progress, heal=False)

    async def heal(
        self, queues: Iterable[str] | None = None, *, on_progress: OnProgress | None = None
    ) -> DoctorReport:
        """Put right what is wrong, and tell. Arguments and errors as for ``examine``; may be run again at any time."""
        return await self._search(queues, on_progress, heal=True)

    async def close(self) -> None:
        """Close the connections, unless a client of yours brought them. Idempotent."""
        await self._broker.close()

    async def _search(
        self, queues: Iterable[str] | None, on_progress: OnProgress | None, *, heal: bool
    ) -> DoctorReport:
        names = None if queues is None else _names(queues)
        started = time.monotonic()
        await self._broker.sync_clock()
        search = self._broker.reconciliation(heal=heal, decode=True)
        tally, done = _Tally(), 0
        steps = search.search(names)
        async with aclosing(steps):
            async for step in steps:
                tally.add(step.findings)
                done += step.done
                if on_progress is not None and step.done:
                    on_progress(min(done, search.total), search.total)
        if on_progress is not None:
            on_progress(max(done, search.total), max(done, search.total))
        return tally.report(heal, search.queues, search.tasks, time.monotonic() - started)


class _Tally:
    """Counts findings, and keeps some."""

    def __init__(self) -> None:
        self._problems: Counter[Problem] = Counter()
        self._unhealed: Counter[Problem] = Counter()
        self._findings: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._problems[finding.problem] += 1
            if not finding.is_healed:
                self._unhealed[finding.problem] += 1
            if self._problems[finding.problem] <= _KEPT:
                self._findings.append(finding)

    def report(
        self, heal: bool, queues: Sequence[str], tasks: int, duration: float
    ) -> DoctorReport:
        return DoctorReport(
            is_healing=heal,
            queues=tuple(queues),
            tasks=tasks,
            problems=dict(self._problems),
            unhealed=dict(self._unhealed),
            findings=tuple(self._findings),
            duration=duration,
        )


def _names(queues: Iterable[str]) -> list[str]:
    if isinstance(queues, str):
        raise TypeError(f"queues must be names of queues, as [{queues!r}], not a str")
    return list(dict.fromkeys(check_queue("queue name", name) for name in queues))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _example(finding: Finding) -> str:
    detail = f" ({finding.detail})" if finding.detail else ""
    return f"{finding.queue}: {finding.subject}{detail} -> {finding.repair}"
