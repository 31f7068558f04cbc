from __future__ import annotations

import pytest

from benchmarks.harness.figures import percentile, percentiles, ratio, rotated


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0, 1, 50, 95, 99, 100)] == [
        1.0,
        1.0,
        50.0,
        95.0,
        99.0,
        100.0,
    ]
    assert percentile([7.0], 50) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


@pytest.mark.parametrize(("values", "share"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_no_percentile_of_nothing_or_beyond_the_ends(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, share)


def test_few_values_have_their_largest_as_the_upper_percentiles() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0}


def test_a_ratio_is_how_often_the_reference_goes_into_the_value() -> None:
    assert ratio(9.0, 3.0) == 3.0


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio(1.0, None) is None
    assert ratio(None, 1.0) is None
    assert ratio(1.0, 0.0) is None


def test_everybody_is_first_once_and_follows_the_same_order() -> None:
    assert [rotated("abc", turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert rotated([], 1) == []
