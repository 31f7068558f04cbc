"""Results as tables: Markdown for the documentation, rich ones for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.harness.figures import ratio
from benchmarks.harness.records import Column, Measure, Result, Row

#: What stands where nothing was measured.
NOTHING = "–"


def headings(measure: Measure) -> list[str]:
    """Of the table's columns; the first column names the rows and has none."""
    found = [f"{measure.main.title} (extremes)"]
    if measure.reference:
        found.append(f"× {measure.reference_title or measure.reference}")
    return [*found, *(column.title for column in measure.columns[1:]), "rounds"]


def cells(measure: Measure, row: Row) -> list[str]:
    """Of a row: medians, the main column's extremes and its ratio to the reference; dashes where nothing is known."""
    main = measure.main
    figures = [_spread(main, row)]
    if measure.reference:
        reference = measure.row(measure.reference)
        of = ratio(row.middle(main.key), reference.middle(main.key)) if reference else None
        figures.append(NOTHING if of is None else f"{of:.2f}")
    figures += [_middle(column, row) for column in measure.columns[1:]]
    return [*figures, str(len(row.samples))]


def _spread(column: Column, row: Row) -> str:
    values = row.values(column.key)
    if len(values) < 2:
        return _middle(column, row)
    low, high = _text(column, min(values)), _text(column, max(values))
    return f"{_middle(column, row)} ({low}–{high})"


def _middle(column: Column, row: Row) -> str:
    middle = row.middle(column.key)
    return NOTHING if middle is None else _text(column, middle)


def _text(column: Column, value: float) -> str:
    return f"{value:,.{column.digits}f}"


def markdown(measure: Measure) -> str:
    """The table, what was skipped in it, and the notes on its rows."""
    titles = ["", *headings(measure)]
    lines = [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]
    lines += [_line([row.label, *cells(measure, row)]) for row in measure.rows]
    remarks = [remark for remark in (measure.remark, measure.origin) if remark]
    remarks += [f"{row.label}: {failure}" for row in measure.rows for failure in row.failures[:1]]
    return "\n".join([*lines, *(f"\n{remark}" for remark in remarks)])


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"


def notes(result: Result) -> str:
    """What differs in the work done, by contender, and who could not be measured."""
    told = {row.label: row.note for measure in result.measures for row in measure.rows if row.note}
    lines = [
        f"- **{label}** {result.versions.get(label, '')}".rstrip() + f": {note}"
        for label, note in told.items()
    ]
    lines += [f"- **{title}**: skipped: {reason}" for title, reason in result.skipped.items()]
    return "\n".join(lines)


def provenance(result: Result) -> str:
    """One line of when, how and on what."""
    machine = result.machine
    where = f"{machine['cores']} cores ({machine['processor']}), {machine['memory']}, {machine['system']}"
    what = f"Python {machine['python']}, {machine['redis']}"
    return f"`{result.command}`, {result.date}; {where}; {what}; {result.rounds} rounds."


def page(result: Result) -> str:
    """The question's Markdown file."""
    return "\n\n".join(_sections(result)) + "\n"


def _sections(result: Result) -> Iterator[str]:
    yield f"# {result.title}"
    yield provenance(result)
    for measure in result.measures:
        yield f"## {measure.title}"
        yield markdown(measure)
    yield f"![{result.title}]({result.question}.svg)"
    if text := notes(result):
        yield f"## What differs in the work done\n\n{text}"


def show(result: Result, console: Console) -> None:
    """The tables on a terminal."""
    for measure in result.measures:
        table = Table("", title=measure.title, title_justify="left")
        for heading in headings(measure):
            table.add_column(heading, justify="right")
        for row in measure.rows:
            table.add_row(row.label, *cells(measure, row))
        console.print(table)
        for row in measure.rows:
            for failure in row.failures[:1]:
                console.print(f"  {row.label}: {failure}", style="yellow", markup=False)
    for title, reason in result.skipped.items():
        console.print(f"  {title} is skipped: {reason}", style="yellow", markup=False)
