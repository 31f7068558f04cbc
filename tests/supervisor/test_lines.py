from __future__ import annotations

import logging
import os
import socket
from io import FileIO

import pytest

from asynqpy.supervisor import lines
from asynqpy.supervisor.lines import reading_lines
from tests.eventually import eventually


async def read(*pieces: bytes) -> list[bytes]:
    """The lines of what is written piece by piece until the end."""
    seen: list[bytes] = []
    ours, theirs = socket.socketpair()
    async with reading_lines(ours, seen.append):
        with theirs:
            for piece in pieces:
                theirs.sendall(piece)
    return seen


async def test_lines_come_without_their_ends() -> None:
    assert await read(b"one\ntwo\n\nfour\n") == [b"one", b"two", b"", b"four"]


async def test_line_that_comes_in_pieces_is_one() -> None:
    assert await read(b"o", b"ne\nt", b"wo\n") == [b"one", b"two"]


async def test_last_line_needs_no_end() -> None:
    assert await read(b"one\ntwo") == [b"one", b"two"]


async def test_very_long_line_comes_in_pieces() -> None:
    pieces = await read(b"x" * 150_000 + b"\nend\n")
    assert b"".join(pieces) == b"x" * 150_000 + b"end"
    assert pieces[-1] == b"end"


async def test_other_side_may_end_without_having_read_what_it_was_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[bytes] = []
    unheard: list[bool] = []
    ours, theirs = socket.socketpair()
    async with reading_lines(ours, seen.append, lambda: unheard.append(True)):
        with theirs:
            ours.send(b"word")
            theirs.sendall(b"one\ntwo")
    assert (seen, unheard) == ([b"one", b"two"], [True])
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


async def test_line_comes_while_the_block_runs() -> None:
    seen: list[bytes] = []
    readable, writable = os.pipe()
    async with reading_lines(FileIO(readable), seen.append):
        with FileIO(writable, "w") as output:
            output.write(b"one\n")
            await eventually(lambda: seen == [b"one"])


async def test_other_side_that_is_never_closed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "_REST", 0.05)
    seen: list[bytes] = []
    ours, theirs = socket.socketpair()
    with theirs:
        async with reading_lines(ours, seen.append):
            theirs.sendall(b"one\ntw")
            await eventually(lambda: seen == [b"one"])
    assert seen == [b"one", b"tw"]
    assert ours.fileno() == -1
