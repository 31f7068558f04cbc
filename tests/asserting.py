"""What tests assert in more than one place."""

from __future__ import annotations

from collections.abc import Iterable


def assert_none(offences: Iterable[str]) -> None:
    """Fails with every offence on a line of its own; pytest shortens a list."""
    __tracebackhide__ = True
    found = sorted(set(offences))
    assert not found, "\n".join(["", *found])
