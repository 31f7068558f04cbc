from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """That of the processes under test, which find the programs of this folder and Redis."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if sys.dont_write_bytecode:
        # Many interpreters start here; compiling everything each time takes them a third of it.
        monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        compiled = tmp_path_factory.getbasetemp() / "compiled"
        monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(compiled))
