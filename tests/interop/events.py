"""What a worker under test tells, in the one form that the Go and the Python worker share."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec


class Event(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """``ready`` and ``stopped`` of the worker; ``start``, ``end`` and ``error`` of a task.

    ``end`` comes when the handler is left, with its error; ``error`` from the error handler.
    """

    event: str
    id: str = ""
    type: str = ""
    queue: str = ""
    payload: bytes | None = None
    headers: dict[str, str] | None = None
    retried: int = 0
    max_retry: int = 0
    deadline: datetime | None = None
    error: str = ""

    def matches(self, name: str, fields: dict[str, object]) -> bool:
        return self.event == name and all(getattr(self, key) == fields[key] for key in fields)


class EventLog:
    """All that a worker has told so far, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._closed = False
        self._news = asyncio.Event()

    def append(self, event: Event) -> None:
        self.events.append(event)
        self._wake()

    def close(self) -> None:
        """No more will come: whoever waits fails now."""
        self._closed = True
        self._wake()

    def ids(self, name: str) -> list[str]:
        """The task ids of all events of that name so far."""
        return [event.id for event in self.events if event.event == name]

    async def event(self, name: str, *, within: float = 15, **fields: object) -> Event:
        """The first event of that name whose fields have these values, told already or to come.

        Fails after ``within`` seconds, or when the log is closed without such an event.
        """
        try:
            async with asyncio.timeout(within):
                return await self._find(name, fields)
        except TimeoutError:
            pass
        tail = "\n".join(map(str, self.events[-20:]))
        raise AssertionError(f"no {name} {fields} within {within} s; last events:\n{tail}")

    async def _find(self, name: str, fields: dict[str, object]) -> Event:
        seen = 0
        while True:
            news, closed = self._news, self._closed
            for event in self.events[seen:]:
                if event.matches(name, fields):
                    return event
            seen = len(self.events)
            assert not closed, f"the worker ended without {name} {fields}"
            await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
