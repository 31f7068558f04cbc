from __future__ import annotations

from asynqpy.metrics.tally import Tally


def test_a_bucket_counts_what_is_at_most_its_bound_and_all_that_is_in_those_before() -> None:
    tally = Tally([1, 5])
    for value in (0.5, 1.0, 3.0, 9.0):
        tally.add(value)
    assert list(tally.buckets()) == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert tally.sum == 13.5
