"""The servers of this process, for whoever looks at the process as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakMethod


class Vitals(NamedTuple):
    """How a server does.

    ``state`` is its ``ServerState``; ``running`` of at most ``concurrency`` tasks run now, ``ended`` attempts have; a
    shutdown waits for handlers up to ``shutdown_timeout`` s.
    """

    state: str
    running: int
    concurrency: int
    ended: int
    shutdown_timeout: float


class Census:
    """Counts servers for as long as somebody holds them. Any thread may ask."""

    def __init__(self) -> None:
        self._members: list[WeakMethod[Callable[[], Vitals]]] = []
        #: Called after each new member, on its thread.
        self.on_enlisted: Callable[[], None] = lambda: None

    def enlist(self, vitals: Callable[[], Vitals]) -> None:
        """Count a server in, by the bound method that tells how it does."""
        living = [member for member in self._members if member() is not None]
        self._members = [*living, WeakMethod(vitals)]
        self.on_enlisted()

    def take(self) -> list[Vitals]:
        """How each server does that has started, shut down ones included."""
        return [vitals() for member in self._members if (vitals := member()) is not None]


#: That of this process.
census = Census()
