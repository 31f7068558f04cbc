"""What a server makes of the signals of its process."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

logger = logging.getLogger("asynqpy.server")

_TERMINATE = {signal.SIGTERM, signal.SIGINT}

#: Not on Windows.
_PAUSE = getattr(signal, "SIGTSTP", None)


@asynccontextmanager
async def obeying_signals(
    *, terminate: Callable[[], None], pause: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Call ``terminate`` for each SIGTERM and SIGINT, ``pause`` for SIGTSTP, while the block runs.

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
    async for signum in signals:
        logger.info("received %s", signum.name)
        if signum in _TERMINATE:
            terminate()
        else:
            await pause()
