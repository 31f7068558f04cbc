"""What a question's run leaves behind: every raw figure, and what is needed to read them."""

from __future__ import annotations

from pathlib import Path

import msgspec

#: One round's figures of one row, by the key of their column.
Sample = dict[str, float]


class Column(msgspec.Struct, frozen=True):
    """A figure of a table: its key in the samples, its heading with unit, its digits behind the point."""

    key: str
    title: str
    digits: int = 0


class Row(msgspec.Struct):
    """A contender, or a size, and what was measured of it; ``failures`` are those of single rounds."""

    label: str
    contender: str
    note: str = ""
    samples: list[Sample] = []
    failures: list[str] = []

    def values(self, key: str) -> list[float]:
        return [sample[key] for sample in self.samples if key in sample]


class Measure(msgspec.Struct):
    """A table and a plot.

    The first column is the one that is compared: its spread is shown, and its ratio to the row ``reference``, if any.
    ``remark`` says what stands under the table.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]
    reference: str = ""
    reference_title: str = ""
    less_is_better: bool = False
    remark: str = ""

    @property
    def main(self) -> Column:
        return self.columns[0]

    def row(self, label: str) -> Row | None:
        return next((row for row in self.rows if row.label == label), None)


class Result(msgspec.Struct):
    """All of one question. ``machine`` and ``versions`` are facts by name; ``skipped`` reasons by contender."""

    question: str
    title: str
    date: str
    command: str
    rounds: int
    machine: dict[str, str]
    versions: dict[str, str]
    skipped: dict[str, str]
    measures: list[Measure]

    def measure(self, name: str) -> Measure | None:
        return next((measure for measure in self.measures if measure.name == name), None)


def save(result: Result, folder: Path) -> Path:
    path = folder / f"{result.question}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(path: Path) -> Result:
    """Raises ``ValueError`` naming the file when it holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
