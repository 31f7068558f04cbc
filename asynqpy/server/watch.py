"""Which leases nobody holds any more: decided on what several looks at Redis have shown, without Redis."""

from __future__ import annotations

from collections.abc import Sequence, Set

from asynqpy.broker.outcomes import LEASE_SECONDS, SilentLease
from asynqpy.server.suspects import ALL_IN_SIGHT, is_suspect

#: Seconds of silence after which a lease is watched. Live servers extend theirs each 5 s.
SILENT_AFTER = 6

#: Seconds of silence after which a lease is an orphan if its server shows no sign of life either. As long as a
#: heartbeat lasts, so that a server which can extend its leases but not show itself keeps them.
_GONE_AFTER = 10

#: Seconds past its end after which a lease is an orphan although its server lives, or is unknown.
_LAPSED_AFTER = 10

#: The same for the leases of Go workers, which are written by the clocks of their hosts (asynq's own grace).
_GO_LAPSED_AFTER = 30

#: Seconds that a lease is watched at least. After an outage of Redis all leases look forsaken for a moment: those who
#: hold them must get the chance to say so. A heart that has just sent into a dead connection needs 3 s to notice, and
#: tries again at most 1.25 s later.
_PATIENCE = 5.0

#: Seconds between two looks after which all watching starts anew: meanwhile Redis, or this process, was not there.
_GAP = 10.0


def silent_until(now: float) -> tuple[float, float]:
    """Leases that end by then are to be watched, and those of Go by the second instant (unix s)."""
    return now + LEASE_SECONDS - SILENT_AFTER, now - _GO_LAPSED_AFTER


class Watch:
    """Watches silent leases from look to look; one that stays silent for long enough is an orphan.

    All times are by the clock that Redis rules, unix s.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bytes], tuple[str, float]] = {}
        self._looked_at = float("-inf")

    def look(
        self, leases: Sequence[SilentLease], unclaimed: Set[SilentLease], now: float
    ) -> list[SilentLease]:
        """Take in what is seen ``now``: silent leases, and those of them whose owner is gone. Answers the orphans."""
        if not 0 <= now - self._looked_at <= _GAP:
            self._seen = {}
        before, self._seen, self._looked_at = self._seen, {}, now
        orphans = []
        for lease in leases:
            score, since = before.get((lease.queue, lease.id), ("", now))
            # Extended, or taken again by another worker, in between.
            since = since if score == lease.score else now
            self._seen[lease.queue, lease.id] = lease.score, since
            if now - since >= _PATIENCE and _is_forsaken(lease, lease in unclaimed, now):
                orphans.append(lease)
        return orphans

    def forget(self) -> None:
        """Redis could not be asked: who could not either has had no chance to show itself."""
        self._seen = {}


def _is_forsaken(lease: SilentLease, is_unclaimed: bool, now: float) -> bool:
    left = lease.expires_at - now
    if lease.is_go:
        return left <= -_GO_LAPSED_AFTER
    if not is_unclaimed:
        return left <= -_LAPSED_AFTER
    return left <= LEASE_SECONDS - (ALL_IN_SIGHT if is_suspect(lease) else _GONE_AFTER)
