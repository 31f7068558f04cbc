"""What asynqpy said in the log."""

from __future__ import annotations

import logging

import pytest


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings and worse."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("asynqpy") and record.levelno >= logging.WARNING
    ]


def told(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """How often a line with that text was written."""
    return sum(
        text in record.getMessage()
        for record in caplog.records
        if record.name.startswith("asynqpy")
    )
