"""The LoopWatch: notices a handler that blocks the event loop, and says which."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Callable

from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")


class LoopWatch(Service):
    """Asks the server's loop for a sign of life from another thread; logs silence with the stack that causes it."""

    def __init__(
        self,
        *,
        server_loop: asyncio.AbstractEventLoop,
        thread_id: int,
        blocked_after: float = 5.0,
        interval: float = 1.0,
        on_answer: Callable[[float], object] = lambda lag: None,
    ) -> None:
        """``thread_id`` is that of the server's loop. It counts as blocked when silent for ``blocked_after`` s.

        ``on_answer`` is told on that loop how many s each answer took.
        """
        super().__init__(interval=interval, at_once=True)
        self._server_loop = server_loop
        self._thread_id = thread_id
        self._blocked_after = blocked_after
        self._on_answer = on_answer
        self._asked_at = self._answered_at = time.monotonic()
        self._is_asked = False
        self._is_reported = False

    async def tick(self) -> float | None:
        silent_for = time.monotonic() - self._answered_at
        if not self._is_asked:
            self._is_asked = True
            self._asked_at = time.monotonic()
            self._server_loop.call_soon_threadsafe(self._answer)
        elif silent_for > self._blocked_after and not self._is_reported:
            self._is_reported = True
            self._report(silent_for)
        return None

    def _answer(self) -> None:
        """On the server's loop."""
        now = time.monotonic()
        if self._is_reported:
            blocked_for = now - self._answered_at
            logger.warning("the event loop runs again; it was blocked for %.1f s", blocked_for)
        self._answered_at = now
        self._is_asked = self._is_reported = False
        self._on_answer(now - self._asked_at)

    def _report(self, silent_for: float) -> None:
        job = asyncio.current_task(self._server_loop)
        frame = sys._current_frames().get(self._thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame else "(no stack)"
        logger.error(
            "the event loop has been blocked for %.1f s by %s; leases are kept, but nothing else of this server moves. "
            "Await instead, or make the handler a plain def. It is here:\n%s",
            silent_for,
            job.get_name() if job else "something outside of any task",
            stack,
        )
