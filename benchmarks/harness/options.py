"""The flags that all questions share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.installing import BUILD

#: The measures of the question growth, and what their tables are called.
GROWTH = {
    "pending": "Beside a backlog",
    "scheduled": "Beside scheduled tasks",
    "active": "Beside active tasks of other servers",
    "queues": "Tasks spread over queues",
    "idle": "Idle, by number of queues",
    "payload": "By size of the payload",
    "processes": "By number of worker processes",
    "persistence": "By Redis' persistence",
}


@dataclass(frozen=True)
class Options:
    """How much is measured.

    - ``rounds``: of every contender, interleaved; ``tasks``: at most, of a round;
    - ``seconds``: about how long one round of one contender may take: slow ones get fewer tasks, but ``fewest``;
    - ``limit``: seconds of a whole question after which no further round begins, 0 for none;
    - ``quick``: the short form, which measures fewer sizes;
    - ``out``: the folder of the results; ``add``: what earlier runs left there and this one does not measure is kept;
    - ``only``: names of contenders, none for all;
    - ``concurrency`` of processing, ``measures`` of growth and ``sizes`` in them: only these, none for all.
    """

    rounds: int = 5
    tasks: int = 20_000
    seconds: float = 5.0
    fewest: int = 500
    limit: float = 0.0
    quick: bool = False
    out: Path = BUILD / "results"
    add: bool = False
    only: tuple[str, ...] = ()
    concurrency: tuple[int, ...] = ()
    measures: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()


QUICK = Options(rounds=3, tasks=5_000, seconds=1.0, fewest=200, limit=48.0, quick=True)


def parser(description: str) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--quick", action="store_true", help="the short form")
    flags.add_argument("--rounds", type=int, help="rounds of every contender")
    flags.add_argument("--tasks", type=int, help="most tasks of a round")
    flags.add_argument("--seconds", type=float, help="about how long a round may take")
    flags.add_argument("--limit", type=float, help="no further round after so many seconds")
    flags.add_argument("--out", type=Path, help="folder of the results")
    flags.add_argument("--add", action="store_true", help="to the results of earlier runs there")
    flags.add_argument("--contenders", nargs="+", dest="only", metavar="NAME", help="only these")
    flags.add_argument("--concurrency", nargs="+", type=int, metavar="N", help="of processing")
    flags.add_argument("--measures", nargs="+", choices=GROWTH, help="of growth: only these")
    flags.add_argument("--sizes", nargs="+", type=int, metavar="N", help="of growth: only these")
    return flags


def options(given: argparse.Namespace) -> Options:
    """The full or the short form, with what was given instead of its defaults."""
    base = QUICK if given.quick else Options()
    names = ("rounds", "tasks", "seconds", "limit", "out")
    changed: dict[str, Any] = {
        name: getattr(given, name) for name in names if getattr(given, name) is not None
    }
    lists = ("only", "concurrency", "measures", "sizes")
    changed |= {name: tuple(getattr(given, name) or ()) for name in lists}
    return replace(base, **changed, add=given.add)


def parse(description: str, arguments: Sequence[str] | None = None) -> Options:
    return options(parser(description).parse_args(arguments))
