from __future__ import annotations

from typing import Any

import pytest

from asynqpy.server import nudge as module
from asynqpy.server.nudge import Nudge


class Loop:
    """Remembers when something is to be called; time is the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.later: list[tuple[float, Any]] = []

    def monotonic(self) -> float:
        return self.now

    def get_running_loop(self) -> Loop:
        return self

    def call_later(self, delay: float, call: Any) -> object:
        self.later.append((round(delay, 6), call))
        return object()

    def pass_by(self) -> float:
        """Let the time come; answers how long that took."""
        ((delay, call),) = self.later
        self.later.clear()
        self.now += delay
        call()
        return delay


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(module, "time", loop)
    monkeypatch.setattr(module, "asyncio", loop)
    return loop


@pytest.fixture
def woken() -> list[str]:
    return []


def test_the_first_call_wakes_at_once_and_a_crowd_after_it_once_more(
    loop: Loop, woken: list[str]
) -> None:
    nudge = Nudge(lambda: woken.append("woken"), spacing=0.25)
    nudge()
    assert len(woken) == 1
    loop.now += 0.05
    for _ in range(10):
        nudge()
    assert len(woken) == 1
    assert loop.pass_by() == 0.2
    assert len(woken) == 2
    assert loop.later == []


def test_after_a_quiet_time_it_wakes_at_once_again(loop: Loop, woken: list[str]) -> None:
    nudge = Nudge(lambda: woken.append("woken"), spacing=0.25)
    nudge()
    loop.now += 1
    nudge()
    assert (len(woken), loop.later) == (2, [])


def test_without_a_spacing_every_call_wakes(loop: Loop, woken: list[str]) -> None:
    nudge = Nudge(lambda: woken.append("woken"), longest=0.1)
    for _ in range(3):
        nudge()
        nudge.came_to(True)
    assert len(woken) == 3


def test_who_always_comes_for_nothing_comes_less_often(loop: Loop, woken: list[str]) -> None:
    nudge = Nudge(lambda: woken.append("woken"), longest=0.1)
    delays = []
    nudge()
    for _ in range(6):
        nudge.came_to(False)
        nudge()
        delays.append(loop.pass_by())
    assert delays == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]
    nudge.came_to(True)
    nudge()
    assert loop.later == []


def test_only_what_a_nudge_led_to_counts(loop: Loop, woken: list[str]) -> None:
    nudge = Nudge(lambda: woken.append("woken"), longest=0.1)
    for _ in range(5):
        nudge.came_to(False)
    nudge()
    nudge()
    assert (len(woken), loop.later) == (2, [])
