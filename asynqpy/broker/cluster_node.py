"""One node of a cluster: its connections, and whether it is known to be away.

A node that is away is refused at once, so that what goes to the others does not wait for it; now and then it is asked
whether it is back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from asynqpy.broker import keys
from asynqpy.broker.exchange import Command, DirectExchange
from asynqpy.broker.redis_client import SinglePlan
from asynqpy.broker.redis_errors import Kind, kind_of
from asynqpy.broker.redis_url import Endpoint

#: Seconds between two questions whether it is back.
_ASK_AGAIN = 0.5

#: Seconds that who asks waits for the answer: a node that refuses connections, or is well, needs milliseconds.
_PATIENCE = 0.25

_FAILURES = (redis_errors.RedisError, OSError, TimeoutError)

#: What tells that the node is away, and not only that one connection has ended.
_AWAY = {Kind.UNREACHABLE, Kind.SILENT, Kind.LOADING}


class ClusterNode:
    """A node at its address. Raises what redis-py raises, and ``ConnectionError`` while it is away."""

    def __init__(self, endpoint: Endpoint, plan: SinglePlan) -> None:
        self.endpoint = endpoint
        self._exchange = DirectExchange(plan.build())
        self._failure: Exception | None = None
        self._ask_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    def __repr__(self) -> str:
        return f"<ClusterNode {self.endpoint}{' away' if self.is_away else ''}>"

    @property
    def is_away(self) -> bool:
        return self._failure is not None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """As ``Exchange.send``."""
        if self._failure is not None:
            self.look_after()
            await self._wait_a_moment()
        if self._failure is not None:
            text = f"not connecting to {self.endpoint}, which is away: {self._failure}"
            raise redis_errors.ConnectionError(text)
        try:
            replies = await self._exchange.send(commands)
        except _FAILURES as error:
            self._failed(error)
            raise
        self._answered(replies)
        return replies

    def begin(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]] | None:
        """As ``DirectExchange.begin``; None also while it is away."""
        answer = None if self.is_away else self._exchange.begin(commands)
        if answer is not None:
            # At once, also where somebody waits for another node first, or no longer.
            answer.add_done_callback(self._take_note)
        return answer

    def _take_note(self, answer: asyncio.Future[list[Any]]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._answered(answer.result())
        elif isinstance(error, _FAILURES):
            self._failed(error)

    def _answered(self, replies: Sequence[Any]) -> None:
        down = next((it for it in replies if _is_down(it)), None)
        if down is not None:
            self.fell_silent(down)

    def _failed(self, error: Exception) -> None:
        if kind_of(error) in _AWAY:
            self.fell_silent(error)
        self._exchange.drop_idle()

    @property
    def heard_at(self) -> float:
        """When it showed the latest sign of life, by the clock of the event loop."""
        return self._exchange.heard_at

    def fell_silent(self, error: Exception) -> None:
        """It is away from now on, until it answers."""
        self._failure, self._ask_at = error, time.monotonic() + _ASK_AGAIN
        self._exchange.drop_idle()  # they may lead nowhere

    def look_after(self) -> None:
        """While it is away, have it asked whether it is back, if it is time."""
        now = time.monotonic()
        if self._failure is not None and self._asking is None and now >= self._ask_at:
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask(), name=f"asynqpy:node:{self.endpoint}")

    async def _wait_a_moment(self) -> None:
        """For the answer. A node that refuses connections or is well gives it at once, a frozen one not at all."""
        left = self._asked_at + _PATIENCE - time.monotonic()
        if self._asking is not None and left > 0:
            await asyncio.wait([self._asking], timeout=left)

    async def _ask(self) -> None:
        try:
            # The cluster's state counts for any key, even one of another node.
            (reply,) = await self._exchange.send([("DEL", keys.probe(secrets.token_hex(4)))])
        except _FAILURES as error:
            self._failure = error
            self._exchange.drop_idle()
        else:
            is_away = _is_down(reply) or (isinstance(reply, Exception) and kind_of(reply) in _AWAY)
            self._failure = reply if is_away else None
        finally:
            self._ask_at, self._asking = time.monotonic() + _ASK_AGAIN, None

    @property
    def is_busy(self) -> bool:
        """Whether something is under way."""
        return self._exchange.is_busy

    def drop_idle(self) -> None:
        """Have the next commands connect anew."""
        self._exchange.drop_idle()

    def hang_up(self) -> list[asyncio.Task[None]]:
        """Close all at once, for good; the tasks that are returned are about to end."""
        self._exchange.close_at_once()
        if self._asking is None:
            return []
        self._asking.cancel()
        return [self._asking]

    async def close(self) -> None:
        """Hang up. Idempotent; all is closed also when it is cancelled."""
        if ending := self.hang_up():
            await asyncio.wait(ending)


def _is_down(reply: object) -> bool:
    """Whether the node says that the cluster is down, as far as it sees, and not just a slot."""
    return isinstance(reply, redis_errors.ClusterDownError) and "Hash slot" not in str(reply)
