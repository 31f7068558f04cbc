"""Every scenario in its small size. They mostly wait, so several play at a time, each with a Redis of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.scenario import scenarios
from tests.redis_process import end_with_parent
from tests.requires import need_go

ROOT = Path(__file__).parents[2]

#: As many as two cores carry.
AT_A_TIME = 4

#: Those that take longest, which begin.
LONGEST = ("poison", "stall", "blocked", "skew")

NAMES = sorted(scenarios(), key=lambda name: (name not in LONGEST, name))


class Plays:
    """Runs of the harness, each in a process of its own; started in order, while somebody waits for one."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self._waiting = names
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def outcome(self, name: str) -> dict[str, Any]:
        """What the run left behind; fails with its output when it left nothing."""
        while name not in self._started or self._started[name].poll() is None:
            running = sum(play.poll() is None for play in self._started.values())
            if self._waiting and running < AT_A_TIME:
                self._start(self._waiting.pop(0))
            time.sleep(0.05)
        record = self._folder / name / f"{name}-asynqpy.json"
        if not record.exists():
            pytest.fail(self._output(name).read_text())
        outcome: dict[str, Any] = json.loads(record.read_text())
        return outcome

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.chaos", "--no-plot", "--scenario", name]
        with self._output(name).open("wb") as output:
            self._started[name] = subprocess.Popen(
                [*command, "--out", str(self._folder / name)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    def _output(self, name: str) -> Path:
        return self._folder / f"{name}.txt"

    def stop(self) -> None:
        for play in self._started.values():
            play.kill()
            play.wait()


@pytest.fixture(scope="session")
def plays(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plays]:
    """Those that this session has selected."""
    selected = [name for item in request.session.items for name in _played_by(item)]
    plays = Plays(selected, tmp_path_factory.mktemp("chaos"))
    yield plays
    plays.stop()


def _played_by(item: pytest.Item) -> Iterator[str]:
    if isinstance(item, pytest.Function) and item.originalname == "test_promises_hold":
        yield str(item.callspec.params["name"])


@pytest.mark.parametrize("name", NAMES)
def test_promises_hold(plays: Plays, name: str) -> None:
    if scenarios()[name].needs_go:
        need_go()
    outcome = plays.outcome(name)
    assert outcome["breaches"] == [], outcome["figures"]
