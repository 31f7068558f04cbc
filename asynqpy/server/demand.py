"""What to ask of which queue: by its weight, by what is known to wait there, and by what is asked of it already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from asynqpy.broker.arrivals import Arrivals
from asynqpy.priority import Priority


class Demand:
    """Divides permits between the queues that are not known to be empty or paused."""

    def __init__(self, priority: Priority, arrivals: Arrivals) -> None:
        self._priority = priority
        self._arrivals = arrivals
        self._backlog: dict[str, int] = {}
        self._asked: Counter[str] = Counter()
        #: How many tasks the turns under way may bring.
        self.promised = 0

    def learn(self, backlog: Mapping[str, int]) -> None:
        """Take note of how many tasks wait in some queues."""
        self._backlog.update(backlog)

    def forget(self) -> None:
        """Know nothing of what waits any more: a turn went wrong."""
        self._backlog.clear()

    @contextmanager
    def asking(self, wanted: Mapping[str, int]) -> Iterator[None]:
        """While so many tasks of each queue are on their way, ask for what waits behind them."""
        asked, self.promised = sum(wanted.values()), self.promised + sum(wanted.values())
        self._asked.update(wanted)
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
        shares = self._priority.draw(free, behind, promising)
        enough = sum(behind.values()) >= free
        return self._priority.narrow(shares) if enough else shares

    def _behind(self) -> dict[str, int]:
        asked, backlog = self._asked, self._backlog
        return {q: max(0, backlog.get(q, 0) - asked[q]) for q in self._arrivals.promising}
