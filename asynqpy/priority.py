"""How many tasks to ask of each queue: pure arithmetic, no Redis."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Set


class Priority(ABC):
    """Divides free permits among queues, knowing what each was last seen to hold back.

    That knowledge is one round trip old, so it only orders the queues: permits left over after it are still offered,
    and every queue is named in the answer (with 0 it only tells its backlog), so none is forgotten. Unless it is known
    to have nothing: then it is left out.
    """

    def __init__(self, queues: Mapping[str, int]) -> None:
        self._weights = dict(queues)

    @property
    def queues(self) -> Collection[str]:
        return self._weights.keys()

    @abstractmethod
    def draw(
        self,
        permits: int,
        backlog: Mapping[str, int],
        among: Set[str] | None = None,
        *,
        lap: float = 0.0,
    ) -> dict[str, int]:
        """Tasks to ask of each queue, ``permits`` in all; or of each of those ``among`` them.

        ``backlog``: tasks last seen pending there. ``lap``: so many tasks may be taken before each queue has had its
        share of them. The more, the fewer queues are asked at a time.
        """

    def before(self, shares: Mapping[str, int]) -> Collection[str]:
        """Queues of which a single task would go before what is asked for."""
        return ()

    def _chosen(self, queues: Collection[str], among: Set[str] | None) -> Collection[str]:
        return queues if among is None else [queue for queue in queues if queue in among]


class StrictPriority(Priority):
    """A queue is served only when those above it are empty. Equal priorities keep their given order."""

    def __init__(self, queues: Mapping[str, int]) -> None:
        super().__init__(queues)
        self._order = sorted(queues, key=lambda queue: -queues[queue])

    def draw(
        self,
        permits: int,
        backlog: Mapping[str, int],
        among: Set[str] | None = None,
        *,
        lap: float = 0.0,
    ) -> dict[str, int]:
        shares = dict.fromkeys(self._chosen(self._order, among), 0)
        for queue in shares:
            shares[queue] = min(permits, backlog.get(queue, 0))
            permits -= shares[queue]
        for highest in shares:
            shares[highest] += permits
            break
        return shares

    def before(self, shares: Mapping[str, int]) -> Collection[str]:
        asked = [place for place, queue in enumerate(self._order) if shares.get(queue)]
        return self._order[: asked[-1]] if asked else ()


class WeightedPriority(Priority):
    """Backed-up queues share the permits in proportion to their weights; an idle queue's share goes to the others.

    Stride scheduling: serving a queue once moves its pass on by 1/weight, and the queue with the lowest pass is next.
    So the proportion holds exactly over time, even when permits come one by one. In a longer lap a queue is served
    several times in a row, and its pass moves on by as much.
    """

    def __init__(self, queues: Mapping[str, int]) -> None:
        super().__init__(queues)
        self._passes = dict.fromkeys(queues, 0.0)

    def draw(
        self,
        permits: int,
        backlog: Mapping[str, int],
        among: Set[str] | None = None,
        *,
        lap: float = 0.0,
    ) -> dict[str, int]:
        shares = dict.fromkeys(self._chosen(self._weights, among), 0)
        waiting = {queue: backlog.get(queue, 0) for queue in shares}
        idle = {queue for queue in self._weights if not waiting.get(queue)}
        permits -= self._serve(permits, self._passes, waiting, shares, lap)
        self._forget_idle(idle)
        # What is left goes out on the chance that tasks have just arrived, and is not held against a queue.
        if permits:
            anything = dict.fromkeys(shares, permits)
            self._serve(permits, dict.fromkeys(shares, 0.0), anything, shares)
        return shares

    def _serve(
        self,
        permits: int,
        passes: dict[str, float],
        waiting: dict[str, int],
        shares: dict[str, int],
        lap: float = 0.0,
    ) -> int:
        """Hand permits to waiting queues, lowest pass first; answers how many were handed out."""
        heap = [
            (passes[queue], place, queue) for place, queue in enumerate(waiting) if waiting[queue]
        ]
        heapq.heapify(heap)
        per_weight = lap / sum(self._weights[queue] for *_, queue in heap) if heap else 0.0
        served = 0
        while heap and served < permits:
            lowest, place, queue = heap[0]
            most = min(waiting[queue], permits - served)
            # One after the other, unless it has no rival.
            count = (
                most
                if len(heap) == 1
                else min(most, max(1, int(per_weight * self._weights[queue])))
            )
            shares[queue] += count
            waiting[queue] -= count
            served += count
            passes[queue] = lowest + count / self._weights[queue]
            if waiting[queue]:
                heapq.heapreplace(heap, (passes[queue], place, queue))
            else:
                heapq.heappop(heap)
        return served

    def _forget_idle(self, idle: Set[str]) -> None:
        """A queue without work earns no right to a burst later: it rejoins level with the least served."""
        level = min((at for queue, at in self._passes.items() if queue not in idle), default=0.0)
        for queue in idle:
            self._passes[queue] = max(self._passes[queue], level)
