from __future__ import annotations

import asyncio

from asynqpy.task import ActiveTask


class Gate:
    """A handler that waits until it is opened, and counts how many wait at once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.running = 0
        self.most = 0
        self._open = asyncio.Event()

    async def __call__(self, task: ActiveTask) -> None:
        self.started.append(task.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._open.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1

    def open(self) -> None:
        self._open.set()
