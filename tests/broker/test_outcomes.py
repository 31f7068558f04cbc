from __future__ import annotations

import pytest

from asynqpy.broker.consuming import score
from asynqpy.broker.outcomes import STAMPS, Lease

#: Today, and the last second that Go's zero-padded dates can show.
SECONDS = [1_795_417_687, 4_102_444_800]


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("stamp", [1, 2, 12_345, STAMPS // 2 + 1, STAMPS - 1])
def test_a_stamp_survives_in_the_fraction_of_a_lease_score(second: int, stamp: int) -> None:
    stored = float(score(second, stamp))
    assert int(stored) == second
    assert (stored % 1) * STAMPS == stamp


def test_the_fence_of_a_lease_is_its_stamp_whatever_its_expiry() -> None:
    lease = Lease("default", "t1", 7, expires_at=100.0)
    lease.expires_at = 130.0
    assert lease.fence == "7"


def test_leases_are_told_apart_by_identity() -> None:
    first, second = Lease("q", "t", 7, 1.0), Lease("q", "t", 7, 1.0)
    assert first != second
    assert len({first, second}) == 2
