from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import QUESTIONS
from benchmarks.harness.contenders import FOLDER, Contender, discover, taking_part
from tests.asserting import assert_none


def leave(folder: Path, name: str, **changes: object) -> None:
    described = {"name": name, "title": name, "kind": "python", "questions": ["processing"]}
    (folder / name).mkdir()
    (folder / name / "contender.json").write_text(json.dumps({**described, **changes}))


def test_contenders_are_found_with_ours_first_and_then_go(tmp_path: Path) -> None:
    leave(tmp_path, "alpha")
    leave(tmp_path, "golang", kind="go")
    leave(tmp_path, "ours", kind="own")
    (tmp_path / "no-contender").mkdir()
    assert list(discover(tmp_path)) == ["ours", "golang", "alpha"]


@pytest.mark.parametrize("changes", [{"kind": "perl"}, {"title": None}, {"speed": 9}])
def test_a_description_that_makes_no_sense_is_named(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    leave(tmp_path, "alpha", **changes)
    with pytest.raises(ValueError, match=r"alpha.contender\.json"):
        discover(tmp_path)


def test_a_contender_has_the_name_of_its_folder(tmp_path: Path) -> None:
    leave(tmp_path, "alpha")
    (tmp_path / "alpha").rename(tmp_path / "beta")
    with pytest.raises(ValueError, match="'alpha'"):
        discover(tmp_path)


def test_who_takes_part_in_a_question(tmp_path: Path) -> None:
    leave(tmp_path, "alpha")
    leave(tmp_path, "beta", questions=["memory"])
    leave(tmp_path, "gamma")
    found = discover(tmp_path)
    assert [c.name for c in taking_part(found, "processing")] == ["alpha", "gamma"]
    assert [c.name for c in taking_part(found, "processing", ["gamma", "beta"])] == ["gamma"]
    with pytest.raises(ValueError, match="no such contender: delta"):
        taking_part(found, "processing", ["delta"])


def test_one_like_another_uses_its_folder() -> None:
    shared = Contender(name="b", title="b", kind="own", questions=(), like="a")
    assert (shared.home, Contender(name="c", title="c", kind="own", questions=()).home) == (
        "a",
        "c",
    )


def test_the_contenders_of_the_repository_answer_questions_that_are_asked() -> None:
    contenders = discover()
    assert {"asynqpy", "go", "redis_py"} <= contenders.keys()
    assert_none(
        f"{contender.name} answers {question}"
        for contender in contenders.values()
        for question in contender.questions
        if question not in QUESTIONS
    )


def test_the_contenders_of_the_repository_have_the_files_that_they_need() -> None:
    assert_none(
        f"{contender.name} wants {contender.home}/{file}"
        for contender in discover().values()
        for file in _files_of(contender)
        if not (FOLDER / contender.home / file).exists()
    )


def _files_of(contender: Contender) -> list[str]:
    scripts = (
        ["producer.py"]
        if set(contender.questions) == {"enqueueing"}
        else ["producer.py", "worker.py"]
    )
    return ["requirements.txt", *(scripts if contender.kind != "go" else [])]
