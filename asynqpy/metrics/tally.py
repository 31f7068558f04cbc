"""A histogram that costs next to nothing to fill: it is counted into for every task."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate


class Tally:
    """Counts values by the first of the ``bounds`` that they do not exceed. One thread counts; any may read."""

    __slots__ = ("_bounds", "_counts", "_labels", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` ascend; what is above the last is counted as well."""
        self._bounds = tuple(bounds)
        self._labels = [*map(str, map(float, self._bounds)), "+Inf"]
        self._counts = [0] * len(self._labels)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def sum(self) -> float:
        return self._sum

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Each bound as Prometheus writes it, and how many values are at most that."""
        # A copy: what is counted meanwhile must not make a bucket smaller than one before it.
        return zip(self._labels, accumulate(self._counts.copy()), strict=True)
