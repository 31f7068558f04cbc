"""A nudge: wakes a service when something has changed, and not too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

#: Seconds of the first spacing where there was none.
_FIRST_SPACING = 0.01


class Nudge:
    """Passes calls on to ``wake``, the first at once and others at least ``spacing`` s after it.

    Where many servers wait for the same tasks, all of them are woken and one gets the task. The more often a server
    comes for nothing, the longer is the spacing, up to ``longest`` s.
    """

    def __init__(
        self, wake: Callable[[], None], *, spacing: float = 0.0, longest: float = 0.0
    ) -> None:
        self._wake = wake
        self._shortest = self._spacing = spacing
        self._longest = max(spacing, longest)
        self._last = -float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._is_fresh = False

    def __call__(self) -> None:
        if self._timer is not None:
            return
        delay = self._last + self._spacing - time.monotonic()
        if delay <= 0:
            self._fire()
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._last = time.monotonic()
        self._is_fresh = True
        self._wake()

    def came_to(self, something: bool) -> None:
        """Say whether the last wake was worth it."""
        if something:
            self._spacing = self._shortest
        elif self._is_fresh:
            self._spacing = min(self._longest, max(_FIRST_SPACING, 2 * self._spacing))
        self._is_fresh = False
