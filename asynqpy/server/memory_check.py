"""The MemoryCheck: warns of a Redis that would evict tasks."""

from __future__ import annotations

import logging
import math

from asynqpy.broker.broker import Broker
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")


class MemoryCheck(Service):
    """Looks once, as soon as Redis is there; a Redis that does not tell is left alone."""

    interruptible = True

    def __init__(self, *, broker: Broker) -> None:
        super().__init__(at_once=True)
        self._broker = broker

    async def tick(self) -> float | None:
        try:
            policies = await self._broker.memory_policies()
        except BrokerUnavailableError:
            raise  # and ask again
        except BrokerError as error:
            logger.debug("cannot see what Redis does when it is full: %s", error)
            return math.inf
        for danger in sorted({policy.danger() for policy in policies} - {""}):
            logger.warning("%r loses data when it is full: %s", self._broker, danger)
        return math.inf
