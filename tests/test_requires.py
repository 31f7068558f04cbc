from __future__ import annotations

from pathlib import Path

import pytest

from tests.requires import VARIABLE, need_go


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_go_that_is_there_is_found(bare_path: Path) -> None:
    go = bare_path / "go"
    go.touch(mode=0o755)
    assert need_go() == str(go)


@pytest.mark.usefixtures("bare_path")
@pytest.mark.parametrize("required", ["", "docker", "golang"])
def test_absent_go_skips_where_nobody_asked_for_it(
    required: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.skip.Exception, match="Go is not installed"):
        need_go()


@pytest.mark.usefixtures("bare_path")
@pytest.mark.parametrize("required", ["go", "docker, go"])
def test_absent_go_fails_where_it_is_required(
    required: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.fail.Exception, match="ASYNQPY_REQUIRE asks for it"):
        need_go()
