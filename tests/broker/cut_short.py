"""Cancels what connects and hangs up, at one moment after another, and sees whether it leaves a connection open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from asynqpy.broker.connection import Connection
from asynqpy.broker.link import Link
from asynqpy.server.service import cancel_until_done

#: Turns of the event loop between two cancellations: of what was under way, and of the clearing up.
_BETWEEN = (1, 2, 3)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def noted_connections(monkeypatch: pytest.MonkeyPatch) -> list[AbstractConnection | Link]:
    """All that redis-py makes from now on, and the links that take some of them over."""
    made: list[AbstractConnection | Link] = []
    init, link_init = AbstractConnection.__init__, Link.__init__

    def note(self: AbstractConnection, **options: Any) -> None:
        init(self, **options)
        made.append(self)

    def note_link(self: Link) -> None:
        link_init(self)
        made.append(self)

    monkeypatch.setattr(AbstractConnection, "__init__", note)
    monkeypatch.setattr(Link, "__init__", note_link)
    return made


async def left_open(
    hold: Callable[[Connection], Awaitable[None]],
    url: str,
    moments: Iterable[int],
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[int, int]]:
    """The moments (in turns of the event loop) of two cancellations of ``hold`` after which a connection was open.

    ``hold`` is given a new parent each time, which is closed after it.
    """
    asyncio.get_running_loop().set_debug(False)  # it takes most of the time
    made, found = noted_connections(monkeypatch), []
    for before in moments:
        for between in _BETWEEN:
            connection = Connection.open(url)
            job = asyncio.ensure_future(hold(connection))
            await turns(before)
            job.cancel()
            await turns(between)
            await cancel_until_done(job)
            await connection.close()
            if any([await _was_open(it) for it in made]):
                found.append((before, between))
            made.clear()
    return found


async def _was_open(it: AbstractConnection | Link) -> bool:
    """Closes it, too: left to itself it is a warning in whatever comes next."""
    if isinstance(it, Link):
        was_open = it.is_open
        if was_open:
            it.close()
            await asyncio.sleep(0)
        return was_open
    was_open = bool(it.is_connected)
    await it.disconnect(nowait=True)
    return was_open
