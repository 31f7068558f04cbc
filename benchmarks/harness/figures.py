"""Medians, percentiles and ratios: plain functions on lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")

__all__ = ["median", "percentile", "percentiles", "ratio", "rotated"]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` percent of them do not exceed (nearest rank).

    Raises ``ValueError`` for no values or a share outside of 0 to 100.
    """
    if not values or not 0 <= share <= 100:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    ordered = sorted(values)
    rank = -(-share * len(ordered) // 100)  # rounded up
    return ordered[max(int(rank), 1) - 1]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p95``, ``p99`` and ``max``."""
    found = {f"p{share}": percentile(values, share) for share in (50, 95, 99)}
    return {**found, "max": max(values)}


def ratio(value: float | None, reference: float | None) -> float | None:
    """How often the reference goes into the value; None where that says nothing."""
    return value / reference if value is not None and reference else None


def rotated(things: Sequence[T], by: int) -> list[T]:
    """The same in the same order, another one first: so that nobody always follows the same one."""
    if not things:
        return []
    start = by % len(things)
    return [*things[start:], *things[:start]]
