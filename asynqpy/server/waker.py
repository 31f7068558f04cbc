"""The Waker: has Redis tell of changes, so that nobody needs to poll."""

from __future__ import annotations

import logging
import math
import time

from asynqpy.broker.broker import Broker
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.server.service import Service

logger = logging.getLogger("asynqpy.server")

#: Seconds before a Redis that does not tell of changes is asked again; doubled for each time after that.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0


class Waker(Service):
    """Holds the broker's watch for as long as the server runs; a tick lasts until it has to be opened anew.

    Meanwhile everybody polls, and for ever if Redis, a proxy before it or its ACL lacks what the watch needs.
    """

    interruptible = True
    longest_back_off = 5.0

    def __init__(self, *, broker: Broker) -> None:
        super().__init__(at_once=True)
        self._watch = broker.key_watch
        self._refusals = 0

    async def tick(self) -> float | None:
        opened_at = math.inf
        try:
            await self._watch.open()
            opened_at = time.monotonic()
            logger.log(
                logging.INFO if self._refusals else logging.DEBUG, "Redis tells of new tasks"
            )
            await self._watch.run()
            return 0.0  # it is to be opened anew
        except BrokerError as error:
            if time.monotonic() - opened_at > _LONGEST_PAUSE:
                self._refusals = 0
            if isinstance(error, BrokerUnavailableError):
                raise
            return self._refused(error)
        finally:
            await self._watch.close()

    def _refused(self, error: BrokerError) -> float:
        """Nothing is broken: the server polls as servers do. That is told once."""
        level = logging.DEBUG if self._refusals else logging.INFO
        logger.log(level, "new tasks are found by polling: %s", error)
        self._refusals += 1
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (self._refusals - 1))
