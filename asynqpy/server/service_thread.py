"""Runs services on an event loop of their own, in a thread that a blocked main loop cannot hold up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from anyio import CapacityLimiter, to_thread

from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")

#: Seconds that the thread gets to end beyond the patience of its services.
_LAST_WORDS = 3.0


class ServiceThread:
    """A thread with an event loop for services that must go on whatever handlers do. Start and stop are idempotent."""

    def __init__(
        self, services: Sequence[Service], *, name: str, is_needed: Callable[[], bool]
    ) -> None:
        """The thread ends by itself within a second of ``is_needed()`` turning false."""
        self._services = services
        self._name = name
        self._is_needed = is_needed
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._patience: float | None = None

    def start(self) -> None:
        if self._thread is None:
            self._ready.clear()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    async def stop(self, patience: float | None = None) -> None:
        """Stop the services, each with this patience, and the thread; returns when all have ended."""
        if self._thread is None:
            return
        self._patience = patience
        # Its own limiter: the common one may be full of an application's threads.
        await to_thread.run_sync(self._stop_and_join, limiter=CapacityLimiter(1))
        self._thread = None

    def _stop_and_join(self) -> None:
        self._ready.wait()
        assert self._thread is not None
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # its loop is closed: the thread has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        # What hangs in there, such as a name that is looked up and not found, ends with the process: it is a daemon.
        self._thread.join(
            None if self._patience is None else len(self._services) * self._patience + _LAST_WORDS
        )
        if self._thread.is_alive():
            logger.error("the thread %s does not end, and is left behind", self._name)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            logger.critical("the thread %s died: leases will lapse", self._name, exc_info=True)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        for service in self._services:
            service.start()
        self._ready.set()
        while self._is_needed():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)
                break
        for service in self._services:
            await service.stop(self._patience)
