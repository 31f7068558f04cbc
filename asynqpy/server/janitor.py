"""The Janitor: deletes completed tasks whose retention has ended."""

from __future__ import annotations

from collections.abc import Sequence

from asynqpy.broker.broker import Broker
from asynqpy.server.service import Service


class Janitor(Service):
    """Works through each queue a batch at a time, so that no script holds Redis up."""

    def __init__(
        self, *, broker: Broker, queues: Sequence[str], interval: float, batch_size: int
    ) -> None:
        super().__init__(interval=interval)
        self._broker = broker
        self._queues = queues
        self._batch_size = batch_size

    async def tick(self) -> float | None:
        # Nothing falls due by the clock of a host that Redis has not confirmed.
        await self._broker.keep_clock()
        await self._broker.delete_expired_completed(self._queues, self._batch_size)
        return None
