"""What a test needs besides Python and Redis.

A developer without Go skips the tests that need it; where ``ASYNQPY_REQUIRE`` names it
(comma-separated, as CI does) its absence is a failure: a green run there has really run them.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

VARIABLE = "ASYNQPY_REQUIRE"


def need_go() -> str:
    """The path of the ``go`` command; skips the calling test or fixture where there is none."""
    return _need("go", "Go is not installed (no `go` in PATH)")


def need_openssl() -> str:
    """The path of the ``openssl`` command, likewise."""
    return _need("openssl", "OpenSSL's command is not installed (no `openssl` in PATH)")


def server_lacks_tls() -> NoReturn:
    """Skips the calling test or fixture, whose server did not start because it was built without TLS."""
    _lacks("tls", "the Redis or Valkey server is built without TLS")


def _need(program: str, reason: str) -> str:
    return shutil.which(program) or _lacks(program, reason)


def _lacks(what: str, reason: str) -> NoReturn:
    if what in _required():
        pytest.fail(f"{reason}, and {VARIABLE} asks for it", pytrace=False)
    pytest.skip(reason)


def _required() -> set[str]:
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")}
