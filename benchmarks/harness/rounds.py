"""Plays rounds: every entry once a round, another one first each time, whoever fails is told and left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.harness.figures import rotated
from benchmarks.harness.processes import ContenderError, NoSuchMode
from benchmarks.harness.records import Measure, Row, Sample

#: With a limit even a first round is cut off, at so many times of it.
_AT_MOST = 1.3

#: A contender that failed so often in one measure is not tried again in it.
_PATIENCE = 2


@dataclass
class Plan:
    """A measure, and how a sample of each of its rows is taken."""

    measure: Measure
    takes: list[Callable[[], Sample]] = field(default_factory=list)

    def add(self, row: Row, take: Callable[[], Sample]) -> None:
        self.measure.rows.append(row)
        self.takes.append(take)


def play(
    plans: Sequence[Plan],
    rounds: int,
    *,
    limit: float = 0.0,
    across: bool = False,
    told: Callable[[str], None],
    noted: Callable[[], object] = lambda: None,
) -> None:
    """Fill the rows of the plans with samples; ``told`` before each what is measured; ``noted`` after a plan's round.

    All rounds of a plan come before the next plan, or, ``across``, a round of each plan before the next round.

    After ``limit`` seconds, if any, no round begins but the first of each measure; who would come last in that on a
    machine too slow for it is left out, and the row says so.
    """
    begun = time.monotonic()
    order = [(place, turn) for place in range(len(plans)) for turn in range(rounds)]
    if across:
        order.sort(key=lambda step: step[1])
    for place, turn in order:
        part = 1.0 if across else (place + 1) / len(plans)
        share = limit * part if limit else float("inf")
        late = turn > 0 and time.monotonic() - begun > share
        _play_round(plans[place], turn, told, skip=late, end=begun + share * _AT_MOST)
        noted()


def _play_round(
    plan: Plan, turn: int, told: Callable[[str], None], *, skip: bool, end: float
) -> None:
    pairs = list(zip(plan.measure.rows, plan.takes, strict=True))
    for row, take in rotated(pairs, turn):
        told(f"{plan.measure.name}: {row.label}")
        if skip or len(row.failures) >= _PATIENCE:
            continue
        if time.monotonic() > end:
            row.failures += [] if row.samples else ["left out: the time was up"]
        else:
            _take(row, take, turn)


def _take(row: Row, take: Callable[[], Sample], turn: int) -> None:
    try:
        row.samples.append(take())
    except NoSuchMode as reason:
        row.failures = [str(reason)] * _PATIENCE
    except ContenderError as error:
        row.failures.append(f"round {turn + 1}: {error}")
    except Exception as error:  # whatever one contender breaks, the others are measured
        row.failures.append(f"round {turn + 1}: {type(error).__name__}: {error}")
