from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tests.chaos import report
from tests.chaos.records import load
from tests.chaos.scenario import Result

PNG = b"\x89PNG"


def result(engine: str = "asynqpy", **changes: object) -> Result:
    figures = {
        "acknowledged": 1_000,
        "lost": 0,
        "stuck": 2,
        "faults_sigkill": 3,
        "extra_runs_in_flight": 4,
        "extra_runs_unexcused": 5,
        "retries_burned": 6,
        "restarts_measured": 7,
        "restart_p99_s": 8.5,
    }
    made = Result("kills", engine, figures=dict(figures))
    made.series = {
        "acknowledged": [(0.0, 0.0), (1.0, 1_000.0)],
        "finished": [(0.0, 0.0), (2.0, 1_000.0)],
        "restarts": [(1.0, 0.5), (8.5, 1.0)],
        "tasks/s: with": [(0.0, 10.0)],
        "tasks/s: without": [(1.0, 11.0)],
    }
    made.marks = [(0.5, "sigkill")]
    made.figures |= changes  # type: ignore[arg-type]
    return made


def leave(folder: Path, *results: Result) -> None:
    """As ``python -m tests.chaos`` does."""
    for each in results:
        record = {"command": f"python -m tests.chaos --engine {each.engine}", **asdict(each)}
        (folder / f"{each.name}-{each.engine}.json").write_text(json.dumps(record))


def test_a_plot_is_drawn_of_each_scenario_and_shows_every_engine_in_the_folder(
    tmp_path: Path,
) -> None:
    leave(tmp_path, result(), result("go"))
    png, svg = report.write([result()], tmp_path)
    assert (png.name, svg.name) == ("kills.png", "kills.svg")
    assert png.read_bytes().startswith(PNG)
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_a_run_without_faults_can_be_drawn(tmp_path: Path) -> None:
    calm = Result("calm", "asynqpy", figures={"acknowledged": 1}, breaches=["a promise"])
    leave(tmp_path, calm)
    assert [path.suffix for path in report.write([calm], tmp_path)] == [".png", ".svg"]


def test_the_table_has_a_line_a_run(tmp_path: Path) -> None:
    leave(tmp_path, result(), result("go", lost=9))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table(load(tmp_path)))
    text = console.export_text()
    assert "│ kills    │ asynqpy │ 1,000 tasks, 3 × sigkill │ 0    │ 2     │ 4 / 5 │ 6" in text
    assert "│ kills    │ go      │ 1,000 tasks, 3 × sigkill │ 9" in text


def test_markdown_has_a_row_a_scenario_with_go_beside_it_and_the_commands(tmp_path: Path) -> None:
    theirs = result("go", lost=9)
    theirs.breaches = ["9 tasks lost: k1, k2, ..."]
    leave(tmp_path, result(malformed=1_200), theirs)
    lines = report.markdown(load(tmp_path)).splitlines()
    assert lines[2] == (
        "| kills | 1,000 tasks, 3 × sigkill, 1,200 malformed records | 0 | 2 | 4 / 5 | 6 | 8.5 s "
        "| lost 9; stuck 2; extra runs in flight / elsewhere 4 / 5; retries burned 6; restart p99 8.5 s; 9 tasks lost |"
    )
    assert lines[4:] == [
        "```sh",
        "python -m tests.chaos --engine asynqpy",
        "python -m tests.chaos --engine go",
        "```",
    ]


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    leave(tmp_path, result(restarts_measured=0))
    assert report.markdown(load(tmp_path)).splitlines()[2].endswith("| 6 | – | – |")


def test_other_files_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    leave(tmp_path, result())
    (tmp_path / "notes.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    assert [record.name for record in load(tmp_path)] == ["kills"]


def test_the_command_line_prints_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, result())
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "--markdown"])
    report.main()
    assert capsys.readouterr().out.startswith("| scenario | load and faults | lost |")
    assert not list(tmp_path.glob("*.png"))
