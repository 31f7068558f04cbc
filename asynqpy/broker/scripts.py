"""Runs calls on Redis: many in one pipeline, an answer or an error for each; and the one door for redis errors.

A call is sent once. A connection that breaks leaves it open whether a script ran, so nothing is repeated here; only
``NOSCRIPT`` (the script surely did not run) is answered by sending the text. While Redis is away a call waits at the
circuit breaker, unsent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from asyncio import Semaphore
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha1
from importlib import resources
from typing import Any, Generic, TypeVar

from redis import exceptions as redis_errors

from asynqpy.broker import keys
from asynqpy.broker.connection import Connection
from asynqpy.broker.exchange import Command, Told, Word
from asynqpy.broker.redis_client import POOL_TIMEOUT
from asynqpy.broker.redis_errors import (
    ALL_ERRORS,
    AWAY,
    REFUSING,
    Kind,
    fit_to_show,
    kind_of,
    text_of,
    translate,
)
from asynqpy.broker.redis_url import Endpoint
from asynqpy.errors import BrokerError, BrokerUnavailableError

#: Keys of which one is to be found whose node is there, of a cluster.
_PROBE_KEYS = 64

#: Seconds before what met a slot on the move is sent again; doubled for each time after that.
_MOVING_PAUSE = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Script:
    """A file of ``broker/lua``."""

    name: str
    text: str
    sha: str


@cache
def load(name: str) -> Script:
    text = resources.files("asynqpy.broker").joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A command or a script with its arguments, and how to read the answer.

    ``leads``: others of the script follow that must not be run without it, as they would be if the script were loaded
    by somebody in between. So where the order of a pipeline holds, it goes by its text. ``trails``: it is about the
    scripts before it, and is sent again behind them where one was not known.
    """

    words: Command
    read: Callable[[Any], T]
    script: Script | None = None
    leads: bool = False
    trails: bool = False

    def by_text(self) -> Command:
        """The words that carry the script's text instead of its digest, if it is one."""
        if self.script is None:
            return self.words
        return ("EVAL", self.script.text, *self.words[2:])


def command(*words: Word, read: Callable[[Any], T]) -> Call[T]:
    return Call(words, read)


def script_call(
    name: str,
    keys: Sequence[Word],
    args: Sequence[Word],
    read: Callable[[Any], T],
    *,
    leads: bool = False,
) -> Call[T]:
    script = load(name)
    return Call(("EVALSHA", script.sha, len(keys), *keys, *args), read, script, leads)


def nothing(answer: object) -> None:
    """For a call whose answer says nothing."""


class Runner:
    """Sends calls through a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._breaker = connection.breaker
        self._places = Semaphore(connection.limit)
        self._outages = self._breaker.outages
        self._doubts = 0

    @property
    def doubts(self) -> int:
        """Grows whenever Redis may have come back as another: empty, restored, or after a fail-over."""
        return self._doubts + self._breaker.outages

    def refuse_after_outage(self, outages: int) -> None:
        """Raise ``BrokerUnavailableError`` unless the breaker counts as many outages as when a line was made.

        Others may have been led to another Redis since, and only the line still be where it was.
        """
        if self._breaker.outages != outages:
            where = self._connection.description
            raise BrokerUnavailableError(f"Redis at {where} was away, and may be another now")

    async def run(self, call: Call[T]) -> T:
        """Send one call. Raises ``BrokerError``."""
        result: T
        (result,) = await self.run_each([call])
        return result

    async def run_each(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Send all calls in one pipeline; return their answers. Raises the first ``BrokerError`` among them."""
        answers = await self.run_all(calls)
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        return answers

    async def run_all(
        self, calls: Sequence[Call[Any]], told: Told | None = None, *, patience: float = 0.0
    ) -> list[Any]:
        """Send all calls in one pipeline; return the answer or the ``BrokerError`` of each, in order.

        ``told`` hears of each call that went well, by its place, where possible before the others are answered. What
        meets a slot of a cluster that is being moved is tried again for ``patience`` s. Raises ``BrokerError`` when the
        connection failed: then any of the other calls may have run.
        """
        known: dict[int, Any] = {}
        heard = None if told is None else partial(_hear, calls, known, told)
        replies = await self._send_calls(calls, heard)
        await self._resend_unknown_scripts(calls, replies)
        await self._resend_moving(calls, replies, patience)
        return [
            known[i] if i in known else self._answer(call, reply)
            for i, (call, reply) in enumerate(zip(calls, replies, strict=True))
        ]

    def _answer(self, call: Call[Any], reply: Any) -> Any:
        return self.translate(reply) if isinstance(reply, Exception) else call.read(reply)

    async def _send_calls(self, calls: Sequence[Call[Any]], told: Told | None) -> list[Any]:
        leading = [call.script for call in calls if call.leads and call.script is not None]
        if not leading or not self._connection.exchange.answers_early:
            return await self._send([call.words for call in calls], told)
        words = [call.by_text() if call.leads else call.words for call in calls]
        # Who sends the text is not told that it was not there.
        asking: Command = ("SCRIPT", "EXISTS", leading[0].sha)
        after = None if told is None else (lambda place, reply: place and told(place - 1, reply))
        known, *replies = await self._send([asking, *words], after)
        self._doubts += known == [0]
        return replies

    async def primaries(self) -> Sequence[Endpoint | None]:
        """The primaries of a cluster; otherwise one nameless node. Raises ``BrokerError``."""
        cluster = self._connection.cluster
        if cluster is None:
            return [None]
        await self.run(command("PING", read=nothing))  # waits where it must
        with self.errors():
            return await cluster.primaries()

    async def ask(self, node: Endpoint | None, call: Call[T]) -> T:
        """Send a command that reads to one of the ``primaries``. Raises ``BrokerError``."""
        cluster = self._connection.cluster
        if node is None or cluster is None:
            return await self.run(call)
        with self.errors():
            (answer,) = await cluster.send_to(node, [call.words])
        result: T = self._answer(call, answer)
        if isinstance(result, BrokerError):
            raise result
        return result

    async def _resend_unknown_scripts(self, calls: Sequence[Call[Any]], replies: list[Any]) -> None:
        unknown = [
            i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)
        ]
        if unknown:
            self._doubts += 1
            await self._resend(unknown, calls, replies)

    async def _resend_moving(
        self, calls: Sequence[Call[Any]], replies: list[Any], patience: float
    ) -> None:
        """Send again, for so many seconds, what met a slot on its way to another node."""
        give_up_at, pause = time.monotonic() + patience, _MOVING_PAUSE
        while moving := [i for i, reply in enumerate(replies) if _is_moving(reply)]:
            if time.monotonic() + pause > give_up_at:
                return
            await asyncio.sleep(pause)
            pause *= 2
            await self._resend(moving, calls, replies)

    async def _resend(
        self, places: list[int], calls: Sequence[Call[Any]], replies: list[Any]
    ) -> None:
        """Send calls again that have surely not run; scripts by their text."""
        trailing = (i for i in range(places[0], len(calls)) if calls[i].trails)
        places = sorted({*places, *trailing})
        try:
            again = await self._send([calls[i].by_text() for i in places])
        except BrokerUnavailableError as error:
            if len(places) == len(calls):
                raise
            raise BrokerUnavailableError(f"{error}; the calls beside it had been") from error
        for i, reply in zip(places, again, strict=True):
            replies[i] = reply

    async def _send(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        while True:
            if self._breaker.is_open:
                self._refuse_if_closed()
                await self._breaker.wait(self._probe)
            await self._take_place()
            try:
                # It may have been a long wait for the place.
                if not self._breaker.is_open:
                    return await self._execute(commands, told)
            finally:
                self._places.release()

    async def _take_place(self) -> None:
        """Get the right to one connection of the pool.

        Who would wait in the pool itself would go on to connect, one after the other, when Redis has died meanwhile.
        """
        if not self._places.locked():
            _ = await self._places.acquire()
            return
        with self.errors():
            try:
                async with asyncio.timeout(POOL_TIMEOUT):
                    _ = await self._places.acquire()
            except TimeoutError:
                text = f"none of {self._connection.limit} was free for {POOL_TIMEOUT:g} s"
                raise redis_errors.MaxConnectionsError(text) from None

    async def _execute(self, commands: Sequence[Command], told: Told | None = None) -> list[Any]:
        self._refuse_if_closed()
        began_at = time.monotonic()
        with self.errors():
            if self._outages != self._breaker.outages:
                self._outages = self._breaker.outages
                await self._connection.forget_idle()
            replies = await self._connection.exchange.send(commands, told)
        if not self._is_away(replies, began_at):
            self._breaker.answered_at = time.monotonic()
            if self._breaker.is_open:
                self._breaker.answered()
        return replies

    def _is_away(self, replies: Sequence[Any], began_at: float) -> bool:
        """Whether the answers say that Redis cannot serve."""
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        failed = [error for error in errors if kind_of(error) in AWAY]
        if not failed:
            return False
        if self._is_partly_up(failed, replies):
            self._doubts += 1
            return len(failed) == len(replies)
        self._note(failed[0], began_at)
        return True

    def _is_partly_up(self, failed: Sequence[Exception], replies: Sequence[Any]) -> bool:
        """Whether it is a cluster of which only a part is away."""
        if self._connection.cluster is None:
            return False
        return len(failed) < len(replies) or self._has_others()

    def _has_others(self) -> bool:
        """Whether it is a cluster with nodes that are there, as far as is known. A caller's client does not tell."""
        cluster = self._connection.cluster
        return cluster is not None and cluster is self._connection.exchange and cluster.is_alive

    async def _probe(self) -> bool:
        """Whether Redis takes writes, asked on a new connection by one that changes nothing."""
        self._outages = -1
        try:
            (reply,) = await self._execute([("DEL", self._probe_key())])
        except BrokerUnavailableError:
            return False
        except BrokerError as error:
            if isinstance(error.__cause__, ALL_ERRORS):
                return True  # it answered no, perhaps for the sake of the password
            raise
        return not (isinstance(reply, Exception) and kind_of(reply) in AWAY)

    def _probe_key(self) -> str:
        """Of a cluster, one whose node may be there: not every one has to be."""
        names = (keys.probe(secrets.token_hex(4)) for _ in range(_PROBE_KEYS))
        cluster = self._connection.cluster
        return next((it for it in names if cluster is None or cluster.reaches(it)), keys.probe(""))

    def _refuse_if_closed(self) -> None:
        if self._connection.is_closed:
            raise self.closed_error()

    def closed_error(self) -> BrokerError:
        """For whoever asks after ``close``, or was waiting when it came."""
        return BrokerError(f"the connection to Redis at {self._connection.description} is closed")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever the redis library raises into a ``BrokerError``, and tell the circuit breaker."""
        began_at = time.monotonic()
        try:
            yield
        except (*ALL_ERRORS, OSError, TimeoutError) as error:
            self._note(error, began_at)
            raise self.translate(error) from fit_to_show(error)
        except RuntimeError as error:
            if "loop" not in str(error):
                raise
            raise BrokerError(
                f"the connection to Redis at {self._connection.description} belongs to the event "
                f"loop that used it first, and this is another ({error}): make one for each loop"
            ) from error

    def _note(self, error: Exception, began_at: float) -> None:
        kind = kind_of(error)
        if kind is Kind.BUSY:
            self._breaker.busy(str(self.translate(error)))
        elif kind in AWAY:
            self._doubts += 1
            if self._has_others():
                return
            # A caller's client of a cluster does not tell whether it was one node or all: the probe does.
            is_all = self._connection.cluster in (None, self._connection.exchange)
            certain = kind is not Kind.BROKEN and is_all
            refused = kind in REFUSING
            self._breaker.failed(text_of(error), began_at, refused=refused, certain=certain)

    def translate(self, error: Exception) -> BrokerError:
        return translate(error, self._connection.description)


def _hear(
    calls: Sequence[Call[Any]], known: dict[int, Any], told: Told, place: int, reply: Any
) -> None:
    """An error says nothing yet: the script may have to be loaded, or Redis be away."""
    if not isinstance(reply, Exception):
        known[place] = calls[place].read(reply)
        told(place, known[place])


def _is_moving(reply: Any) -> bool:
    return isinstance(reply, Exception) and kind_of(reply) is Kind.MOVING


def is_wrong_type(error: object) -> bool:
    """Whether Redis complained that a key holds another type than the script expects."""
    return isinstance(error, BrokerError) and "WRONGTYPE" in str(error)
