"""Cuts handlers off at their deadlines."""

from __future__ import annotations

import asyncio
import logging
import math
from heapq import heappop, heappush

from asynqpy.server.runs import Run
from asynqpy.task import CancelCause

logger = logging.getLogger("asynqpy.server")

#: Deadlines are kept by twentieths of a second, rounded up. Nearly all handlers end long before theirs: a timer of the
#: event loop for each would cost more than the rest of a short task's bookkeeping.
_SLOTS_PER_SECOND = 20

#: Slots, full or empty, that are not worth forgetting.
_TIDY_FROM = 64

#: Seconds after which a handler that still runs past its deadline is cancelled again.
_INSIST_AFTER = 10.0


class Deadlines:
    """Cancels each run at its deadline, at most 50 ms late, and again for as long as it goes on.

    One timer waits for the earliest slot that has runs. Only on the server's loop.
    """

    def __init__(self) -> None:
        self._slots: dict[int, set[Run]] = {}
        #: A heap of the slots; those that emptied stay for a while, as the next run often opens them again.
        self._order: list[int] = []
        self._tidy_at = _TIDY_FROM
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf
        self._overdue: dict[Run, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return sum(len(runs) for runs in self._slots.values()) + len(self._overdue)

    def add(self, run: Run, left: float) -> None:
        """Cancel the run in ``left`` s. No jump of the clock reaches it from here on."""
        due = asyncio.get_running_loop().time() + left
        slot = run.slot = math.ceil(due * _SLOTS_PER_SECOND)
        runs = self._slots.get(slot)
        if runs:
            runs.add(run)
            return
        if runs is None:
            self._open(slot)
        self._slots[slot] = {run}
        if slot < self._next:
            self._wait_for(slot)

    def _open(self, slot: int) -> None:
        """Take up a new slot; that is rare, and time to forget those that emptied."""
        if len(self._order) >= self._tidy_at:
            self._slots = {number: runs for number, runs in self._slots.items() if runs}
            self._order = sorted(self._slots)
            self._tidy_at = 2 * len(self._order) + _TIDY_FROM
        heappush(self._order, slot)

    def remove(self, run: Run) -> None:
        """The run has ended."""
        runs = self._slots.get(run.slot)
        if runs is not None:
            runs.discard(run)
        if self._overdue:
            timer = self._overdue.pop(run, None)
            if timer is not None:
                timer.cancel()

    def _wait_for(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = slot
        at = slot / _SLOTS_PER_SECOND
        self._timer = asyncio.get_running_loop().call_at(at, self._pass)

    def _pass(self) -> None:
        """The next slot is due, and so may be others: the loop may have been blocked."""
        now = max(self._next, asyncio.get_running_loop().time() * _SLOTS_PER_SECOND)
        self._timer, self._next = None, math.inf
        while self._order and (self._order[0] <= now or not self._slots[self._order[0]]):
            slot = heappop(self._order)
            for run in self._slots.pop(slot):
                self._cut_off(run, slot / _SLOTS_PER_SECOND)
        if self._order:
            self._wait_for(self._order[0])

    def _cut_off(self, run: Run, deadline: float) -> None:
        """Cancel the run, whose ``deadline`` is by the clock of the loop."""
        loop = asyncio.get_running_loop()
        self._overdue[run] = loop.call_later(_INSIST_AFTER, self._insist, run, deadline)
        run.cancel(CancelCause.DEADLINE)

    def _insist(self, run: Run, deadline: float) -> None:
        overdue = asyncio.get_running_loop().time() - deadline
        logger.warning("%r still runs %.0f s past its deadline", run, overdue)
        self._cut_off(run, deadline)
