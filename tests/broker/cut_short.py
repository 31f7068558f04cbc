"""Cancels what connects and hangs up, at one moment after another, and sees whether it leaves a connection open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from asynqpy.broker.connection import Connection
from asynqpy.server.service import cancel_until_done

#: Turns of the event loop between two cancellations: of what was under way, and of the clearing up.
_BETWEEN = (1, 2, 3)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def noted_links(monkeypatch: pytest.MonkeyPatch) -> list[AbstractConnection]:
    """All that redis-py makes from now on."""
    made: list[AbstractConnection] = []
    init = AbstractConnection.__init__

    def note(self: AbstractConnection, **options: Any) -> None:
        init(self, **options)
        made.append(self)

    monkeypatch.setattr(AbstractConnection, "__init__", note)
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
    links, found = noted_links(monkeypatch), []
    for before in moments:
        for between in _BETWEEN:
            connection = Connection.open(url)
            job = asyncio.ensure_future(hold(connection))
            await turns(before)
            job.cancel()
            await turns(between)
            await cancel_until_done(job)
            await connection.close()
            if any([await _was_open(link) for link in links]):
                found.append((before, between))
            links.clear()
    return found


async def _was_open(link: AbstractConnection) -> bool:
    """Closes it, too: left to itself it is a warning in whatever comes next."""
    was_open = bool(link.is_connected)
    await link.disconnect(nowait=True)
    return was_open
