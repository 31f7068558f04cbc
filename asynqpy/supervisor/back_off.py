"""When a process that ended is started again."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Seconds before the third start in a row; doubled for each one after that. The second comes at once.
_FIRST = 1.0

#: Seconds at most.
_LONGEST = 30.0

#: Seconds of life after which what happened before is forgotten.
_STEADY = 60.0


class BackOff:
    """Delays of one process after another in the same place.

    ``chance`` answers a number from 0 to 1 and makes each delay up to a quarter shorter or longer: processes that died
    of one cause do not all come back in the same moment.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._in_a_row = 0

    def after(self, lived: float) -> float:
        """Seconds to wait now that a process has ended which lived so long (s)."""
        self._in_a_row = 1 if lived >= _STEADY else self._in_a_row + 1
        return delay(self._in_a_row) * (0.75 + self._chance() / 2)


def delay(in_a_row: int) -> float:
    """Seconds before the next start when so many processes in a row have ended soon."""
    if in_a_row < 2:
        return 0.0
    return min(_LONGEST, _FIRST * 2.0 ** min(in_a_row - 2, 10))
