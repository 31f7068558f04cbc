"""Remembers which ids were seen, however many, in 8 bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

_MASK = (1 << 64) - 1


class Sightings:
    """Ids by their hashes: of a million ids and as many questions one in ten million answers may be a wrong yes."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, ids: Iterable[bytes]) -> None:
        self._hashes.extend(mark(task_id) for task_id in ids)

    def close(self) -> set[int]:
        """To be called when all are in, before the first question; answers the marks that came more than once."""
        hashes = sorted(self._hashes)
        repeated = {one for one, next_one in pairwise(hashes) if one == next_one}
        self._hashes = array("Q", hashes)
        return repeated

    def __contains__(self, task_id: bytes) -> bool:
        wanted = mark(task_id)
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


def mark(task_id: bytes) -> int:
    """64 bits that stand for an id, the same as long as the process lives."""
    return hash(task_id) & _MASK
