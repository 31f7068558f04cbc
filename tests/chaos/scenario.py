"""What a scenario is: its sizes, what it is given, and what it answers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figure = int | float


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is. ``faults`` are as many as the scenario injects; ``seconds`` bound the load, not the drain."""

    seconds: float
    tasks: int
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """What one run was asked for. ``folder`` is its own: journals, logs and configurations go there."""

    scenario: str
    seconds: float
    tasks: int
    faults: int
    seed: int
    engine: str
    folder: Path
    size: str = "ci"

    @property
    def slack(self) -> float:
        """How many times as long as promised things may take: the small sizes share a machine with others."""
        return 2.0 if self.size == "ci" else 1.0


@dataclass(slots=True)
class Result:
    """What came of one run.

    ``breaches`` say which promises were broken, in words; empty is what we want. ``series`` are for the plot:
    name -> (seconds since the start, value) pairs; but those of ``restarts`` are (seconds a restart took, share of all
    that took no longer). ``marks`` are the faults: (seconds since the start, kind).
    """

    name: str
    engine: str
    figures: dict[str, Figure] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``promises`` says in one line what must hold. ``sizes`` are those of CI and of a long run."""

    name: str
    promises: str
    run: Callable[[Settings], Coroutine[Any, Any, Result]]
    ci: Size
    long: Size
    engines: tuple[str, ...] = ("asynqpy",)
    needs_go: bool = False

    def size(self, name: str) -> Size:
        return {"ci": self.ci, "long": self.long}[name]


def scenarios() -> dict[str, Scenario]:
    """Every scenario by its name: the ``SCENARIOS`` of each module in ``scenarios/``."""
    from tests.chaos import scenarios as folder

    found: dict[str, Scenario] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(folder.__path__)):
        for scenario in importlib.import_module(f"{folder.__name__}.{module}").SCENARIOS:
            found[scenario.name] = scenario
    return found
