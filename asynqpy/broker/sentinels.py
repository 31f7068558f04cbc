"""All sentinels of a master, asked together: the latest decision counts, whoever tells it.

A sentinel that was cut off from the others may name the master of yesterday for as long as it likes. So who the master
is goes by the epoch of the decision, and what was decided before the last one known counts for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from redis.asyncio.connection import ConnectionPool
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from asynqpy.broker.redis_errors import text_of
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.sentinel_line import ANSWER_TIMEOUT, Answer, SentinelLine, View

#: Seconds for the other answers, after the first one and after those of most sentinels.
_PATIENCE = 1.0
_GRACE = 0.1

#: Seconds for which an answer serves all who ask.
_FRESH = 0.25

#: Seconds after which they are asked in any case: what they tell may have been missed.
_LOOK_AFTER = 10.0


class MasterDownError(MasterNotFoundError):
    """The sentinels have not chosen another yet."""


class Sentinels:
    """Of one event loop. They are asked from ``start`` to ``stop``."""

    def __init__(
        self,
        master: str,
        pools: Mapping[Endpoint, ConnectionPool],
        known: Callable[[], View | None],
        learn: Callable[[View, View | None], bool],
    ) -> None:
        """``known`` is the latest view that anybody had.

        ``learn(view, instead_of)`` is told each that counts, with the view it was compared to; it refuses, by False,
        if that is not the latest any more.
        """
        self._master = master
        self._known = known
        self._learn = learn
        self._switched = asyncio.Event()
        self._lock = asyncio.Lock()
        self._found: Answer | None = None
        self._asked_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._lines = [
            SentinelLine(sentinel, pool, master, self._switched.set)
            for sentinel, pool in pools.items()
        ]

    def start(self) -> None:
        for line in self._lines:
            line.start()
        self._task = asyncio.create_task(self._look(), name=f"asynqpy:sentinels:{self._master}")

    def stop(self) -> list[asyncio.Task[None]]:
        """Hang up at once; the tasks that are returned are about to end."""
        if self._task is not None:
            self._task.cancel()
        tasks = [self._task, *(line.stop() for line in self._lines)]
        return [task for task in tasks if task is not None]

    async def find(self, *, anew: bool = False) -> Endpoint:
        """Where the master is. Raises redis-py's ``MasterNotFoundError`` or ``AuthenticationError``.

        With ``anew`` an answer of a moment ago does not do.
        """
        while True:
            found = await self._find_together(anew)
            if isinstance(found, Exception):
                raise type(found)(*found.args)
            known = self._known()
            if known is None or known.address == found.address:
                return found.address
            anew = True  # another event loop has learned more meanwhile

    async def _find_together(self, anew: bool) -> Answer:
        """Those who ask at the same time wait for the first of them."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if anew or self._found is None or loop.time() - self._asked_at > _FRESH:
                self._found = None  # it may hold no longer, also if this is cancelled
                self._found = await self._find()
                self._asked_at = loop.time()
            return self._found

    async def _find(self) -> Answer:
        while True:
            known = self._known()
            answers = await self._ask()
            try:
                view = choose(self._master, answers, known)
            except (MasterNotFoundError, AuthenticationError) as error:
                return error
            if self._learn(view, known):
                return view
            # Another event loop has learned more meanwhile.

    async def _ask(self) -> dict[Endpoint, Answer]:
        """What each has answered in time."""
        loop = asyncio.get_running_loop()
        asked = {line.ask(): line.sentinel for line in self._lines}
        pending = set(asked)
        until = loop.time() + 2 * ANSWER_TIMEOUT
        while pending and loop.time() < until:
            _, pending = await asyncio.wait(
                pending, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            views = sum(isinstance(it.result(), View) for it in asked if it.done())
            if views:
                is_most = 2 * views > len(asked)
                until = min(until, loop.time() + (_GRACE if is_most else _PATIENCE))
        silence = TimeoutError("no answer yet")
        return {who: it.result() if it.done() else silence for it, who in asked.items()}

    async def _look(self) -> None:
        """Find out when they tell of another master, and now and then."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AFTER):
                    await self._switched.wait()
            self._switched.clear()
            with suppress(RedisError):
                await self.find(anew=True)


def choose(master: str, answers: Mapping[Endpoint, Answer], known: View | None) -> View:
    """The view that counts. Raises as ``Sentinels.find``.

    One that is older than what was ``known`` counts only if all sentinels have it: then somebody has set them up anew.
    """
    views = [answer for answer in answers.values() if isinstance(answer, View)]
    if not views:
        raise _nobody_knows(master, answers)
    epoch = max(view.epoch for view in views)
    # A sentinel that is cut off from the master calls it down; another may still reach it, as may we.
    view = min((it for it in views if it.epoch == epoch), key=lambda it: it.is_down)
    if known is not None and epoch < known.epoch and len(views) < len(answers):
        raise MasterNotFoundError(
            f"{_silent(answers)}; the others name a master of the past, {view.address}"
        )
    if view.is_down:
        raise MasterDownError(f"the sentinels say that the master, {view.address}, is down")
    return view


def _nobody_knows(master: str, answers: Mapping[Endpoint, Answer]) -> RedisError:
    refusals = AuthenticationError | NoPermissionError
    if any(isinstance(answer, refusals) for answer in answers.values()):
        return AuthenticationError(f"the sentinels want other credentials: {_silent(answers)}")
    return MasterNotFoundError(f"no sentinel names a master {master!r}: {_silent(answers)}")


def _silent(answers: Mapping[Endpoint, Answer]) -> str:
    """Who did not tell, and why not."""
    return "; ".join(
        f"{sentinel} - {text_of(answer)}"
        for sentinel, answer in answers.items()
        if isinstance(answer, Exception)
    )
