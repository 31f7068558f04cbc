from __future__ import annotations

import subprocess
import sys

import pytest

import asynqpy

#: Runs ``python -m asynqpy`` as if a package were not installed.
WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = ["asynqpy", "version"]
runpy.run_module("asynqpy", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_module_is_the_command() -> None:
    ended = run("-m", "asynqpy", "version")
    assert (ended.returncode, ended.stdout) == (0, f"asynqpy {asynqpy.__version__}\n")


def test_usage_names_the_command_not_the_module() -> None:
    assert "Usage: asynqpy [OPTIONS]" in run("-m", "asynqpy", "--help").stdout


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_missing_extra_is_one_line_that_says_what_to_install(package: str) -> None:
    ended = run("-c", WITHOUT, package)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        'the asynqpy command needs more packages: pip install "asynqpy[cli]"'
    ]


def test_other_missing_modules_are_not_blamed_on_the_extra() -> None:
    ended = run("-c", WITHOUT, "msgspec")
    assert ended.returncode == 1
    assert "msgspec" in ended.stderr
    assert "asynqpy[cli]" not in ended.stderr
