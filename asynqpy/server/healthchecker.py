"""The HealthChecker: pings Redis and tells the user how that went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from asynqpy.broker.broker import Broker
from asynqpy.errors import BrokerError
from asynqpy.server.callbacks import call
from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")

#: ``def f(error)`` or ``async def f(error)``: the error of the ping, or ``None`` when Redis answered.
HealthCheck: TypeAlias = Callable[[BrokerError | None], Any]


class HealthChecker(Service):
    """Calls the health check at the start and each interval. One that takes longer than that is cut off."""

    interruptible = True

    def __init__(self, *, broker: Broker, health_check: HealthCheck, interval: float) -> None:
        super().__init__(interval=interval, at_once=True)
        self._broker = broker
        self._health_check = health_check

    async def tick(self) -> float | None:
        try:
            await self._broker.ping()
        except BrokerError as error:
            await self._tell(error)
        else:
            await self._tell(None)
        return None

    async def _tell(self, error: BrokerError | None) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await call(self._health_check, error, what="the health check callback")
        except TimeoutError:
            logger.error("the health check callback took longer than %g s", self._interval)
