from __future__ import annotations

import re
import tomllib
from pathlib import Path

import asynqpy
from asynqpy.version import __version__

ROOT = Path(__file__).parents[1]


def test_version_is_one_that_packages_have() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab]\d+|rc\d+)?", __version__)
    assert asynqpy.__version__ == __version__


def test_version_of_the_distribution_is_read_from_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    source = project["tool"]["hatch"]["version"]["path"]
    assert (ROOT / source).read_text(encoding="utf-8").count(f'__version__ = "{__version__}"') == 1
