"""What is written from results: files, tables, plots, the promises, the documentation."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.harness import plots, records, summary, tables
from benchmarks.harness.main import write
from benchmarks.harness.options import Options
from benchmarks.harness.records import Row
from tests.benchmarks.results import OURS, PEER, measure, result

PNG = b"\x89PNG"


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert records.load(records.save(result(), tmp_path)) == result()


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"question": 1}')
    with pytest.raises(ValueError, match=r"odd\.json"):
        report.load_all(tmp_path)


def test_a_row_shows_its_median_extremes_and_ratio() -> None:
    shown = measure()
    assert tables.headings(shown) == ["tasks/s (extremes)", "× Go", "% of Redis' limit", "rounds"]
    assert [tables.cells(shown, row) for row in shown.rows] == [
        ["35,000 (30,000–40,000)", "5.00", "35", "3"],
        ["7,000 (6,000–7,000)", "1.00", "7", "3"],
        ["100", "0.01", "0", "1"],
        ["–", "–", "–", "0"],
    ]


def test_a_table_tells_of_failures() -> None:
    text = tables.markdown(measure())
    assert "\n| asynqpy | 35,000 (30,000–40,000) | 5.00 |" in text
    assert "ghost: round 1: never seen" in text
    assert f"{PEER}: round 2: it fell asleep" in text


def test_a_page_says_what_differs_who_was_skipped_and_where_it_was_measured() -> None:
    text = tables.page(result())
    assert "- **asynqpy** 1.0: ours" in text
    assert "- **absent**: skipped: no such package" in text
    assert "`python -m benchmarks.processing`, 2030-01-02 03:04 UTC; 2 cores (of sand)" in text


def test_every_result_leaves_figures_a_table_and_plots(tmp_path: Path) -> None:
    write(result(), Options(out=tmp_path / "new"))
    files = {path.suffix: path for path in (tmp_path / "new").iterdir()}
    assert files.keys() == {".json", ".md", ".png", ".svg"}
    assert files[".png"].read_bytes().startswith(PNG)
    assert ElementTree.parse(files[".svg"]).getroot().tag.endswith("svg")


def test_a_plot_is_drawn_where_nothing_was_measured(tmp_path: Path) -> None:
    nothing = measure()
    nothing.rows = nothing.rows[-1:]
    png, _ = plots.draw(result(nothing), tmp_path)
    assert png.read_bytes().startswith(PNG)


def test_only_bars_that_would_hide_are_drawn_on_a_logarithmic_axis() -> None:
    assert plots.is_logarithmic([1.0, 20.0])
    assert not plots.is_logarithmic([1.0, 19.0])
    assert not plots.is_logarithmic([0.0, 100.0])
    assert not plots.is_logarithmic([5.0])


def test_promises_are_held_against_what_was_measured() -> None:
    lines = summary.table({"processing": result()}).splitlines()
    assert lines[2:6] == [
        "| No-op tasks, concurrency 50, against Go's asynq | 5.00 × | ≥ 4 × | reached |",
        "| ... against the fastest other Python queue | 350.00 × | ≥ 12 × | reached |",
        "| ... of what Redis alone would allow | 35 % | ≥ 40 % | missed |",
        "| ... two worker processes against one | not measured | ≥ 1.3 × | |",
    ]


def test_a_figure_is_not_rounded_to_what_it_missed() -> None:
    near = measure()
    near.rows[0].samples = [{"rate": 27_993.0, "share": 39.96}]
    lines = summary.table({"processing": result(near)}).splitlines()
    assert "| 3.999 × | ≥ 4 × | missed |" in lines[2]
    assert "| 39.96 % | ≥ 40 % | missed |" in lines[4]


def test_percentiles_are_those_of_all_rounds_where_their_latencies_were_kept() -> None:
    row = Row(
        "a",
        "a",
        samples=[{"p50": 1.0, "p99": 9.0, "tasks": 2}, {"p50": 3.0, "p99": 4.0, "tasks": 2}],
    )
    assert row.middle("p50") == 2.0
    row.latencies = [1.0, 9.0, 3.0, 4.0]
    assert [row.middle(key) for key in ("p50", "p99", "tasks", "other")] == [3.0, 9.0, 2, None]


def test_a_run_adds_to_what_an_earlier_one_of_the_machine_left() -> None:
    earlier = result(measure("concurrency 10"), measure("concurrency 50"))
    later = result(measure("concurrency 50"))
    later.command = "python -m benchmarks.processing --concurrency 50"
    both = records.merged(later, earlier)
    assert [(m.name, m.origin) for m in both.measures] == [
        ("concurrency 10", "`python -m benchmarks.processing`, 2030-01-02 03:04 UTC; 3 rounds."),
        ("concurrency 50", ""),
    ]
    assert both.measures[0].origin in tables.markdown(both.measures[0])
    assert records.merged(both, both) == both
    earlier.machine = {**earlier.machine, "cores": "64"}
    assert records.merged(later, earlier) == later


def test_a_shortened_run_of_growth_names_the_tables_that_it_left_out(tmp_path: Path) -> None:
    grown = result(measure("pending"), measure("idle"), question="growth")
    text = report.render("growth", {"growth": grown}, tmp_path / "page.md")
    assert "*By size of the payload*" in text
    assert "*Beside a backlog*" not in text
    assert "--measures scheduled active queues payload processes persistence'`" in text
    assert grown.command in text


def test_a_promise_may_be_an_upper_bound_or_compare_two_measures() -> None:
    bulk, sequential = measure("bulk"), measure("sequential")
    wakeup = measure("wakeup")
    wakeup.rows[0].label = "Go client, asynqpy worker"
    wakeup.rows[0].samples = [{"p50": 3.0, "p99": 9.0}]
    text = summary.table(
        {
            "enqueueing": result(bulk, sequential, question="enqueueing"),
            "wakeup": result(wakeup, question="wakeup"),
        }
    )
    assert "against Go one by one | 5.00 × | ≥ 3 × | reached |" in text
    assert "p50 | 3.00 ms | ≤ 2 ms | missed |" in text
    assert "p99 | 9.00 ms | ≤ 10 ms | reached |" in text


def test_nothing_is_promised_where_nothing_was_measured() -> None:
    assert summary.table({}) == ""
    one = measure()
    one.rows = [row for row in one.rows if row.label in {OURS, PEER}]
    lines = summary.table({"processing": result(one)}).splitlines()
    assert "against Go's asynq | not measured |" in lines[2]
    assert "| reached |" in lines[3]


def test_a_page_gets_its_measured_sections_and_keeps_its_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- measured: processing -->\nstale\n<!-- end of processing -->\nafter\n"
        "<!-- measured: memory --><!-- end of memory -->\n"
        "<!-- measured: memory -->\n<!-- end of memory -->\n"
    )
    page.write_text(once := report.written(page, {"processing": result()}))
    assert once.startswith("before\n")
    assert "stale" not in once
    assert "35,000" in once
    assert once.count(report.UNMEASURED) == 1
    assert report.written(page, {"processing": result()}) == once


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_the_documentation_has_the_figures_of_the_results(page: Path) -> None:
    assert page.read_text() == report.written(page, report.load_all(report.RESULTS)), (
        "run `python -m benchmarks.report`"
    )


def test_every_question_has_its_section_in_the_documentation() -> None:
    text = report.PAGES[0].read_text()
    named = {match["name"] for match in report.SECTION.finditer(text)}
    from benchmarks.__main__ import QUESTIONS

    assert named == {*QUESTIONS, "summary"}
