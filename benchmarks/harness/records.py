"""What a question's run leaves behind: every raw figure, and what is needed to read them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.harness.figures import median, percentiles

#: One round's figures of one row, by the key of their column.
Sample = dict[str, float]


class Column(msgspec.Struct, frozen=True):
    """A figure of a table: its key in the samples, its heading with unit, its digits behind the point."""

    key: str
    title: str
    digits: int = 0


class Row(msgspec.Struct):
    """A contender, or a size, and what was measured of it; ``failures`` are those of single rounds.

    ``latencies``, ms, are those of all rounds, where there are so few in one that its percentiles say little.
    """

    label: str
    contender: str
    note: str = ""
    samples: list[Sample] = []
    failures: list[str] = []
    latencies: list[float] = []

    def middle(self, key: str) -> float | None:
        """The median of the rounds; a percentile over the latencies of all rounds where these were kept."""
        if self.latencies and key in (pooled := percentiles(self.latencies)):
            return pooled[key]
        values = self.values(key)
        return median(values) if values else None

    def values(self, key: str) -> list[float]:
        return [sample[key] for sample in self.samples if key in sample]


class Measure(msgspec.Struct):
    """A table and a plot.

    The first column is the one that is compared: its spread is shown, and its ratio to the row ``reference``, if any.
    ``remark`` says what stands under the table, and ``origin`` how it was measured when that was in a run before.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]
    reference: str = ""
    reference_title: str = ""
    less_is_better: bool = False
    remark: str = ""
    origin: str = ""

    @property
    def has_begun(self) -> bool:
        return any(row.samples or row.failures for row in self.rows)

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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.question}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def load(path: Path) -> Result:
    """Raises ``ValueError`` naming the file when it holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error


def load_earlier(question: str, folder: Path) -> Result | None:
    """What a run before left in the folder, if any."""
    path = folder / f"{question}.json"
    return load(path) if path.exists() else None


def merged(result: Result, earlier: Result | None) -> Result:
    """The result, and before its own measures those that only an earlier one of the same machine has."""
    if earlier is None or earlier.machine != result.machine:
        return result
    ours = {measure.name for measure in result.measures}
    origin = f"`{earlier.command}`, {earlier.date}; {earlier.rounds} rounds."
    kept = [
        msgspec.structs.replace(measure, origin=measure.origin or origin)
        for measure in earlier.measures
        if measure.name not in ours
    ]
    return msgspec.structs.replace(
        result,
        measures=[*kept, *result.measures],
        versions={**earlier.versions, **result.versions},
        skipped={**earlier.skipped, **result.skipped} if kept else result.skipped,
    )
