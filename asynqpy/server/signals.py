"""What a server makes of the signals of its process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

logger = logging.getLogger("asynqpy.server")

_TERMINATE = {signal.SIGTERM, signal.SIGINT}

#: Not on Windows.
_PAUSE = getattr(signal, "SIGTSTP", None)


class Relay:
    """Signals this process in the name of its supervisor, which tells it to stop in another way.

    Many process managers signal the supervisor and its processes alike. That is one stop: only from here a server can
    know that the two signals which then come are no first and second one.
    """

    def __init__(self) -> None:
        #: How often the supervisor has told this process to stop.
        self.stops = 0

    def stop(self) -> None:
        """Send this process SIGTERM. Any thread may."""
        self.stops += 1  # before the signal, which would otherwise look like one from elsewhere
        os.kill(os.getpid(), signal.SIGTERM)


#: That of this process; nobody uses it in one without a supervisor.
relay = Relay()


@asynccontextmanager
async def obeying_signals(
    *, terminate: Callable[[], None], pause: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Call ``terminate`` for each SIGTERM and SIGINT, ``pause`` for SIGTSTP, while the block runs.

    The first that was relayed for a supervisor and the first from elsewhere count as one, and so do the next.

    Only the main thread of a process can; elsewhere a warning is logged and none is obeyed.
    """
    if threading.current_thread() is not threading.main_thread():
        logger.warning("the server runs outside the main thread and cannot obey signals")
        yield
        return
    with anyio.open_signal_receiver(*_TERMINATE, *([_PAUSE] if _PAUSE else [])) as signals:
        obeying = asyncio.create_task(_obey(signals, terminate, pause), name="asynqpy:signals")
        try:
            yield
        finally:
            obeying.cancel()
            await asyncio.wait([obeying])


async def _obey(
    signals: AsyncIterator[signal.Signals],
    terminate: Callable[[], None],
    pause: Callable[[], Awaitable[None]],
) -> None:
    received = obeyed = 0
    async for signum in signals:
        logger.info("received %s", signum.name)
        if signum not in _TERMINATE:
            await pause()
            continue
        received += 1
        # Signals that are on their way may become one, so those from elsewhere can only seem fewer than they are.
        wanted = max(relay.stops, received - relay.stops)
        while obeyed < wanted:
            obeyed += 1
            terminate()
            await asyncio.sleep(0)  # the first takes effect before the second is obeyed
