"""When a process tried to connect, and to which port: counted below all that decides about it."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Unix time (ns), port.
_RECORD = struct.Struct("<qq")


def note_knocks(folder: Path) -> None:
    """From now on this process writes down each attempt, of all its threads, in a file of its own."""
    honest = asyncio.BaseEventLoop.create_connection
    file = os.open(folder / f"{os.getpid()}.knocks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def create_connection(
        loop: asyncio.BaseEventLoop,
        factory: Any,
        host: Any = None,
        port: Any = None,
        **options: Any,
    ) -> Any:
        os.write(file, _RECORD.pack(time.time_ns(), port or 0))
        return await honest(loop, factory, host, port, **options)

    setattr(asyncio.BaseEventLoop, "create_connection", create_connection)  # noqa: B010 - mypy


def knocks(folder: Path, ports: Iterable[int]) -> list[list[int]]:
    """Of each process, when (unix ns) it tried to connect to one of the ports, in order."""
    wanted = frozenset(ports)
    return [
        sorted(at for at, port in _RECORD.iter_unpack(path.read_bytes()) if port in wanted)
        for path in sorted(folder.glob("*.knocks"))
    ]


def most_within(instants: Iterable[int], span: int) -> int:
    """How many of the instants, which are in order, fall into any time of this length, at most."""
    most, first = 0, 0
    ordered = list(instants)
    for last, at in enumerate(ordered):
        while at - ordered[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most
