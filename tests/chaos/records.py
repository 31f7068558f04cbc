"""The records of runs, as ``python -m tests.chaos`` leaves them: one JSON file for each scenario and engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.chaos.scenario import Figure


class Record(msgspec.Struct, frozen=True):
    """A ``Result``, and the command that gets it again."""

    command: str
    name: str
    engine: str
    figures: dict[str, Figure]
    breaches: list[str]
    series: dict[str, list[tuple[float, float]]]
    marks: list[tuple[float, str]]
    notes: list[str]


def load(folder: Path) -> list[Record]:
    """Every record in the folder, by scenario and engine; other JSON files are passed over."""
    found = (_record(path) for path in sorted(folder.glob("*.json")))
    return sorted(
        (r for r in found if r is not None), key=lambda record: (record.name, record.engine)
    )


def by_scenario(records: Iterable[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.name, []).append(record)
    return grouped


def _record(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError:
        return None
