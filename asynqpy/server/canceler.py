"""The Canceler: cancels running tasks on request, whichever language asks."""

from __future__ import annotations

from asynqpy.broker.broker import Broker
from asynqpy.server.runs import Runs
from asynqpy.server.service import Service
from asynqpy.task import CancelCause


class Canceler(Service):
    """Subscribed to the cancel channel for as long as the server runs; a tick lasts until the connection breaks."""

    interruptible = True

    def __init__(self, *, broker: Broker, runs: Runs) -> None:
        super().__init__(at_once=True)
        self._cancellations = broker.cancellations()
        self._runs = runs

    async def tick(self) -> float | None:
        try:
            await self._cancellations.open()
            while True:
                self._runs.cancel(await self._cancellations.next(), CancelCause.REQUESTED)
        finally:
            await self._cancellations.close()
