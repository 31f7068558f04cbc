"""Writes the measured parts of the documentation from benchmarks/results: ``python -m benchmarks.report``.

A page holds pairs of comments, ``<!-- measured: NAME -->`` and ``<!-- end of NAME -->``; what stands between them is
written here, and nothing else is touched. Names are those of questions, and ``summary``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.harness import records, summary, tables
from benchmarks.harness.options import GROWTH
from benchmarks.harness.records import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "README.md")

SECTION = re.compile(
    r"(<!-- measured: (?P<name>\w+) -->\n)(?P<text>.*?)(<!-- end of (?P=name) -->)", re.DOTALL
)

#: What stands in a section of which there are no results.
UNMEASURED = "Not measured yet in this version; run `make bench-full"


def main() -> None:
    results = load_all(RESULTS)
    for page in PAGES:
        page.write_text(written(page, results), encoding="utf-8")


def load_all(folder: Path) -> dict[str, Result]:
    """The results of a folder by their question."""
    found = map(records.load, sorted(folder.glob("*.json")))
    return {result.question: result for result in found}


def written(page: Path, results: Mapping[str, Result]) -> str:
    """The page's text with its measured sections as the results have them."""

    def section(match: re.Match[str]) -> str:
        text = render(match["name"], results, page)
        return f"{match[1]}\n{text}\n\n{match[4]}"

    return SECTION.sub(section, page.read_text(encoding="utf-8"))


def render(name: str, results: Mapping[str, Result], page: Path) -> str:
    if name == "summary":
        return summary.table(results) or f"{UNMEASURED}`."
    if name not in results:
        return f"{UNMEASURED} ARGS='{name}'`."
    return "\n\n".join(_parts(results[name], page))


def _parts(result: Result, page: Path) -> Iterator[str]:
    plot = Path(os.path.relpath(RESULTS / f"{result.question}.svg", page.parent)).as_posix()
    yield f"![{result.title}]({plot})"
    for measure in result.measures:
        yield f"**{measure.title}**"
        yield tables.markdown(measure)
    if result.question == "growth" and (missing := _unmeasured(result)):
        yield missing
    if notes := tables.notes(result):
        yield f"What differs in the work done:\n\n{notes}"
    yield tables.provenance(result)


def _unmeasured(result: Result) -> str:
    """Which of growth's tables a shortened run left out, and how to get them; empty when it has all."""
    names = [name for name in GROWTH if result.measure(name) is None]
    titles = ", ".join(f"*{GROWTH[name]}*" for name in names)
    again = f"make bench-full ARGS='growth --add --measures {' '.join(names)}'"
    return f"Not measured yet in this version: {titles}; run `{again}`." if names else ""


if __name__ == "__main__":
    main()
