from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from asynqpy.embedded import find_server
from tests.topologies import common


def test_no_shape_is_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "single", "valkey"):
        monkeypatch.setenv(common.SHAPE, value)
        assert common.is_one_server(plain=True)


def test_one_server_with_tls_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(common.SHAPE, "tls")
    assert common.is_one_server(plain=False)
    assert not common.is_one_server(plain=True)


def test_an_unknown_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(common.SHAPE, "clutser")
    with pytest.raises(ValueError, match="=clutser: there is single, sentinel, cluster"):
        common.shape()


def test_the_engine_that_is_asked_for_is_found_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = find_server()
    engine = tmp_path / "another-server"
    shutil.copy(before, engine)
    monkeypatch.setenv(common.ENGINE, str(engine))
    with common.engine_on_path():
        assert find_server().resolve() == engine
    assert find_server() == before


def test_an_engine_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(common.ENGINE, str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent"), common.engine_on_path():
        pytest.fail("it runs")
