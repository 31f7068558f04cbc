"""What to ask of which queue: by its weight, by what is known to wait there, and by what is asked of it already."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager

from asynqpy.broker.arrivals import Arrivals
from asynqpy.priority import Priority

#: Seconds in which each queue with work gets its share. What ends within them may be asked of few queues at a time:
#: each that is asked costs a script, and of a cluster perhaps a node.
LAP = 0.05

#: So few queues with work are all asked each turn.
FEW = 3

#: Seconds before a queue that had nothing is looked at again, while others have enough.
LOOK_AGAIN = 0.005

#: Most of those to be looked at in one turn; of a turn that took longer, for each ``LOOK_AGAIN`` of it.
MOST_LOOKS = 16

#: Seconds over which the pace is taken.
_WINDOW = 0.1


class Pace:
    """How many tasks a server settles per second, as of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0
        self._per_second = 0.0

    def add(self, count: int) -> None:
        self._count += count

    def per_second(self) -> float:
        """0 until it has been seen for a tenth of a second."""
        now = self._clock()
        if (elapsed := now - self._since) >= _WINDOW:
            self._per_second = self._count / elapsed
            self._since, self._count = now, 0
        return self._per_second


class Demand:
    """Divides permits between the queues that are not known to be empty or paused."""

    def __init__(
        self,
        priority: Priority,
        arrivals: Arrivals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` counts seconds."""
        self._priority = priority
        self._arrivals = arrivals
        self._clock = clock
        self._pace = Pace(clock)
        self._asked_at: dict[str, float] = {}
        self._looked_at = clock()
        self._backlog: dict[str, int] = {}
        self._asked: Counter[str] = Counter()
        #: How many tasks the turns under way may bring.
        self.promised = 0

    def learn(self, backlog: Mapping[str, int]) -> None:
        """Take note of how many tasks wait in some queues."""
        self._backlog.update(backlog)

    def settled(self, count: int) -> None:
        """Take note of how many tasks have ended and been settled."""
        self._pace.add(count)

    def forget(self) -> None:
        """Know nothing of what waits any more: a turn went wrong."""
        self._backlog.clear()

    @contextmanager
    def asking(self, wanted: Mapping[str, int]) -> Iterator[None]:
        """While so many tasks of each queue are on their way, ask for what waits behind them."""
        asked, self.promised = sum(wanted.values()), self.promised + sum(wanted.values())
        self._asked.update(wanted)
        self._asked_at |= dict.fromkeys(wanted, self._clock())
        try:
            yield
        finally:
            self.promised -= asked
            self._asked.subtract(wanted)

    @property
    def has_more(self) -> bool:
        """Whether tasks were left when their queues were last asked; of an empty queue that is history."""
        return any(self._backlog.get(queue) for queue in self._arrivals.promising)

    def waiting(self) -> int:
        """How many tasks wait, as far as is known, that are not on their way."""
        return sum(self._behind().values())

    def draw(self, free: int) -> dict[str, int]:
        """Of which queues to ask how many tasks; not of those that are known to have none."""
        promising = self._arrivals.promising
        if not promising:
            return {}
        behind = self._behind()
        backed_up = sum(map(bool, behind.values()))
        lap = self._pace.per_second() * LAP if backed_up > FEW else 0.0
        shares = self._priority.draw(free, behind, promising, lap=lap)
        if sum(behind.values()) < free:
            return shares
        asked = {queue: share for queue, share in shares.items() if share}
        first = set(self._priority.before(asked))
        return dict.fromkeys(self._to_look_at(behind, first), 0) | asked

    def _to_look_at(self, behind: Mapping[str, int], first: Set[str]) -> list[str]:
        """Queues that are to tell whether something has come meanwhile: those that were asked longest ago.

        ``first``: what comes there goes before all else, so these are not left alone for a while.
        """
        now, at = self._clock(), self._asked_at
        most = MOST_LOOKS * max(1, int((now - self._looked_at) / LOOK_AGAIN))
        self._looked_at, before = now, now - LOOK_AGAIN
        idle = [
            it for it, n in behind.items() if not n and (it in first or at.get(it, 0.0) <= before)
        ]
        if len(idle) <= most:
            return idle
        return heapq.nsmallest(most, idle, key=lambda it: (it not in first, at.get(it, 0.0)))

    def _behind(self) -> dict[str, int]:
        asked, backlog = self._asked, self._backlog
        return {q: max(0, backlog.get(q, 0) - asked[q]) for q in self._arrivals.promising}
