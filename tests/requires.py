"""What a test needs besides Python and Redis.

A developer without Go skips the tests that need it; where ``ASYNQPY_REQUIRE`` names it
(comma-separated, as CI does) its absence is a failure: a green run there has really run them.
"""

from __future__ import annotations

import os
import shutil

import pytest

VARIABLE = "ASYNQPY_REQUIRE"


def need_go() -> str:
    """The path of the ``go`` command; skips the calling test or fixture where there is none."""
    return _need("go", "Go is not installed (no `go` in PATH)")


def _need(program: str, reason: str) -> str:
    path = shutil.which(program)
    if path is not None:
        return path
    if program in _required():
        pytest.fail(f"{reason}, and {VARIABLE} asks for it", pytrace=False)
    pytest.skip(reason)


def _required() -> set[str]:
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")}
