"""Where the master is that sentinels watch over, as far as this process knows; and who is to hear when it moves.

A watch is shared by a connection that was made from a URL and its siblings, and asks the sentinels on each event loop
by itself. What one loop learns holds for all: when the master has become another, the connections to the old one are
dropped, used or not. A master that is frozen or cut off breaks none by itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from asynqpy.broker.circuit_breaker import CircuitBreaker
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.sentinel_line import View
from asynqpy.broker.sentinels import MasterDownError, Sentinels


class Follower(Protocol):
    """A connection that goes where the master is; ``loop`` is the event loop it is used on, once it was used."""

    breaker: CircuitBreaker

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...

    def leads_to(self, address: Endpoint) -> bool:
        """Whether anything is connected to it."""

    def hang_up(self, address: Endpoint) -> None:
        """Drop what is connected to it, or about to be. On its loop."""


class MasterWatch:
    """Shared by a connection and all its siblings, in any thread and event loop."""

    def __init__(self) -> None:
        self.known: View | None = None
        self._lock = threading.Lock()
        self._followers: WeakSet[Follower] = WeakSet()
        self._sentinels: dict[asyncio.AbstractEventLoop, Sentinels] = {}
        self._users: dict[asyncio.AbstractEventLoop, int] = {}

    def follow(self, follower: Follower) -> None:
        with self._lock:
            self._followers.add(follower)

    def join(self, master: str, pools: Mapping[Endpoint, ConnectionPool]) -> Sentinels:
        """The sentinels for the running loop, asked from now on; each caller says ``part`` in the end."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_closed_loops()
            sentinels = self._sentinels.get(loop)
            if sentinels is None:
                sentinels = Sentinels(master, pools, lambda: self.known, self.learn)
                self._sentinels[loop] = sentinels
                sentinels.start()
            self._users[loop] = self._users.get(loop, 0) + 1
        return sentinels

    def _forget_closed_loops(self) -> None:
        for loop in [it for it in self._sentinels if it.is_closed()]:
            del self._sentinels[loop], self._users[loop]

    def part(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """The last one on a loop stops it all; the tasks that are returned are about to end."""
        with self._lock:
            if loop not in self._users:
                return []
            self._users[loop] -= 1
            if self._users[loop]:
                return []
            del self._users[loop]
            sentinels = self._sentinels.pop(loop)
        return sentinels.stop()

    def learn(self, view: View, instead_of: View | None) -> bool:
        """Take a view in if the latest is still the one it was compared to; answers whether it was."""
        with self._lock:
            if self.known != instead_of:
                return False
            self.known = view
            followers = list(self._followers)
        if instead_of is not None and instead_of.address != view.address:
            _leave(instead_of.address, view, followers)
        return True

    def address_in_use(self) -> Endpoint | None:
        """Of the last known master, while there is a connection to it."""
        known = self.known
        with self._lock:
            followers = list(self._followers)
        in_use = known is not None and any(it.leads_to(known.address) for it in followers)
        return known.address if known is not None and in_use else None


def _leave(old: Endpoint, new: View, followers: list[Follower]) -> None:
    # With the epoch: the next time that the same two change places is news again.
    change = f"{new.address} instead of {old} (epoch {new.epoch})"
    for breaker in {follower.breaker for follower in followers}:
        breaker.moved(f"the sentinels name another master now, {change}")
    for follower in followers:
        if follower.loop is not None:
            with suppress(RuntimeError):  # that loop is closed
                follower.loop.call_soon_threadsafe(follower.hang_up, old)


class MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Makes connections to the master, wherever it is, and waits for a free one.

    While no sentinel can be asked, it stays with a master that others are still connected to.
    """

    def __init__(
        self,
        master: str,
        watch: MasterWatch,
        sentinels: Mapping[Endpoint, ConnectionPool],
        **options: Any,
    ) -> None:
        super().__init__(master, None, **options)  # type: ignore[no-untyped-call]
        self.loop: asyncio.AbstractEventLoop | None = None
        self._watch = watch
        self._pools = sentinels
        self._sentinels: Sentinels | None = None
        self._is_closed = False

    async def get_master_address(self) -> Endpoint:
        """Unlike redis-py's it closes no connections: the watch does."""
        if self._is_closed:
            raise RedisConnectionError("closed")
        if self._sentinels is None:
            self.loop = asyncio.get_running_loop()
            self._sentinels = self._watch.join(self.service_name, self._pools)
        try:
            self.master_address = await self._sentinels.find()
        except MasterDownError:
            raise
        except (MasterNotFoundError, AuthenticationError):
            self.master_address = self._watch.address_in_use()
            if self.master_address is None:
                raise
        return self.master_address

    async def part(self) -> None:
        """Ask the sentinels no more. Idempotent; what there was is closed also when it is cancelled."""
        self._is_closed = True
        loop, sentinels, self._sentinels = self.loop, self._sentinels, None
        if loop is None or sentinels is None:
            return
        if loop is not asyncio.get_running_loop():
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._watch.part, loop)
        else:
            await _ended(self._watch.part(loop))


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Return when they have ended, which takes a few turns of the event loop; also when cancelled."""
    pending, was_cancelled = set(tasks), False
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled:
        raise asyncio.CancelledError
