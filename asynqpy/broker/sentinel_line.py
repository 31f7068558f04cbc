"""A line to one sentinel, which is asked who the master is, and tells when it has become another.

One connection that speaks RESP3 serves for both; where that is not to be had, the sentinel is only asked. It is made
again whenever it breaks, at first after a second and then ever more slowly, unless somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from asynqpy.broker.link import CLOSED, Link
from asynqpy.broker.redis_errors import ALL_ERRORS, text_of
from asynqpy.broker.redis_url import Endpoint

logger = logging.getLogger("asynqpy.broker")

#: Seconds that a sentinel has to take a connection, and for each answer. It has little else to do.
ANSWER_TIMEOUT = 2.0

#: Seconds at least between two attempts to connect, and at most unless somebody asks.
_SPACING = 1.0
_LONGEST_PAUSE = 10.0

#: What a sentinel publishes when it learns of another master: name, old host and port, new host and port.
_SWITCH = "+switch-master"


#: Those of which the log says that they do not answer: it need not say so for each event loop.
_silent: set[Endpoint] = set()


class View(NamedTuple):
    """Who is the master, in the eyes of a sentinel: the higher the epoch, the later that was decided."""

    epoch: int
    address: Endpoint
    is_down: bool


Answer: TypeAlias = View | Exception


class SentinelLine:
    """To the sentinel that ``pool`` connects to, about the master of this name. Of one event loop."""

    def __init__(
        self,
        sentinel: Endpoint,
        pool: ConnectionPool,
        master: str,
        on_switch: Callable[[], object],
    ) -> None:
        self.sentinel = sentinel
        self._pool = pool
        self._master = master
        self._on_switch = on_switch
        self._stir = asyncio.Event()
        self._answer: asyncio.Future[Answer] | None = None
        self._failure: Exception | None = None
        self._failures = 0
        self._failed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._link: _SentinelLink | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"asynqpy:sentinel:{self.sentinel}")

    def stop(self) -> asyncio.Task[None] | None:
        """Hang up at once; the task that is returned is about to end."""
        if self._link is not None:
            self._link.close()
        if self._task is not None:
            self._task.cancel()
        self._tell(RedisConnectionError(CLOSED))
        return self._task

    def ask(self) -> asyncio.Future[Answer]:
        """Who is the master? An error is an answer too; of one that failed a moment ago it is the same."""
        loop = asyncio.get_running_loop()
        if self._answer is None or self._answer.done():
            self._answer = loop.create_future()
            if self._failure is not None and loop.time() - self._failed_at < _SPACING:
                self._tell(self._failure)
            else:
                self._stir.set()
        return self._answer

    @property
    def _is_asked(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _tell(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except (*ALL_ERRORS, OSError, TimeoutError) as error:
                self._failed(error)
            finally:
                if self._link is not None:
                    self._link.close()
            await self._pause()

    async def _serve(self) -> None:
        """Connect, and answer whoever asks, until the connection ends, which is an error."""
        self._link = link = await _SentinelLink.connect(self._pool)
        _give_way()
        link.stir, link.on_switch, link.master = self._stir.set, self._on_switch, self._master
        await link.listen()
        while link.failure is None:
            if self._is_asked:
                self._works(await link.view())
            else:
                await self._stir.wait()
                self._stir.clear()
        raise link.failure

    def _works(self, answer: Answer) -> None:
        if self.sentinel in _silent:
            _silent.discard(self.sentinel)
            logger.info("the sentinel at %s answers again", self.sentinel)
        self._failure, self._failures = None, 0
        self._tell(answer)

    def _failed(self, error: Exception) -> None:
        _give_way()
        if isinstance(error, TimeoutError) and not str(error):
            error = TimeoutError(f"no answer within {ANSWER_TIMEOUT:g} s")
        # One that breaks while nobody asks may do so for many reasons, and is made again when somebody does.
        self._failure = error if self._failures or self._is_asked else None
        self._failed_at = asyncio.get_running_loop().time()
        self._failures += 1
        if self._failures > 1 and self.sentinel not in _silent:  # one connection may always break
            _silent.add(self.sentinel)
            logger.info("the sentinel at %s does not answer: %s", self.sentinel, text_of(error))
        self._tell(error)

    async def _pause(self) -> None:
        self._stir.clear()
        longest = min(_LONGEST_PAUSE, _SPACING * 2**self._failures) * random.uniform(0.75, 1.25)
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._stir.wait()


class _SentinelLink(Link):
    """One question after another, and what the sentinel tells by itself between the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.master = ""
        self.on_switch: Callable[[], object]
        #: Called when the connection has ended.
        self.stir: Callable[[], object] = _nothing
        self._wanted = 0
        self._replies: list[Any] = []
        self._answer: asyncio.Future[list[Any]] | None = None

    async def listen(self) -> None:
        """Have it tell of other masters, if it will. Raises what ends the connection."""
        (hello,) = await self._ask(("HELLO", "3"))
        # In the older protocol whoever subscribes can ask nothing any more.
        (refusal,) = (
            [hello] if isinstance(hello, Exception) else await self._ask(("SUBSCRIBE", _SWITCH))
        )
        if isinstance(refusal, Exception):
            logger.debug("a sentinel does not tell of another master: %s", refusal)

    async def view(self) -> Answer:
        """An error is what the sentinel answered. Raises what ends the connection."""
        name = self.master
        replies = await self._ask(
            ("SENTINEL", "MASTER", name), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        )
        state, address = replies
        refusal = next((it for it in replies if isinstance(it, Exception)), None)
        return refusal or view_of(state, address)

    async def _ask(self, *commands: Sequence[str]) -> list[Any]:
        if self.failure is not None:
            raise self.failure
        self._answer = asyncio.get_running_loop().create_future()
        self._replies, self._wanted = [], len(commands)
        for words in commands:
            self.write(b"".join(self.shell.pack_command(*words)))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await self._answer

    def _hear(self, reply: Any) -> None:
        # Early versions of hiredis make a plain list of what is told; no answer of ours begins with this word.
        if isinstance(reply, list) and reply[:1] == [b"message"]:
            if reply[2].split(b" ")[0] == self.master.encode():
                self.on_switch()
            return
        if self._answer is None or self._answer.done():
            self.close()  # what nobody asked for would pass for the next answer
            return
        self._replies.append(reply)
        if len(self._replies) == self._wanted:
            self._answer.set_result(self._replies)

    def _lost(self, error: Exception) -> None:
        self.failure = self.failure or error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self.failure)
        self.stir()


def view_of(state: Any, address: Any) -> Answer:
    """The view in the answers to ``SENTINEL MASTER`` and ``SENTINEL GET-MASTER-ADDR-BY-NAME``."""
    if not address:
        return ResponseError("it knows no address of the master")
    fields: Mapping[bytes, bytes] = (
        state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
    )
    host, port = address
    named = Endpoint(host.decode(), int(port))
    # While another takes over, these are of the old one, though the address is of the new one.
    is_meant = (fields[b"ip"], fields[b"port"]) == (host, port)
    flags = fields[b"flags"].split(b",")
    is_down = is_meant and (b"s_down" in flags or b"o_down" in flags)
    return View(int(fields[b"config-epoch"]), named, is_down)


def _give_way() -> None:
    """Take notice of a cancellation that redis-py lost while it connected."""
    job = asyncio.current_task()
    if job is not None and job.cancelling():
        raise asyncio.CancelledError


def _nothing() -> None:
    pass
