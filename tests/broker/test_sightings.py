from __future__ import annotations

from asynqpy.broker.sightings import Sightings, mark

IDS = [f"id-{n}".encode() for n in range(1000)]


def test_what_was_seen_is_known_and_nothing_else() -> None:
    sightings = Sightings()
    sightings.add(IDS[:500])
    assert sightings.close() == set()
    assert [i in sightings for i in IDS] == [True] * 500 + [False] * 500
    assert len(sightings) == 500


def test_what_came_twice_is_told_by_its_mark() -> None:
    sightings = Sightings()
    sightings.add(IDS)
    sightings.add([IDS[7], IDS[7], IDS[9]])
    assert sightings.close() == {mark(IDS[7]), mark(IDS[9])}


def test_nothing_was_seen_at_first() -> None:
    assert b"" not in Sightings()
