"""Runs calls on Redis: many in one pipeline, an answer or an error for each; and the one door for redis errors.

A call is sent once. A connection that breaks leaves it open whether a script ran, so nothing is repeated here; only
``NOSCRIPT`` (the script surely did not run) is answered by sending the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any, Generic, TypeAlias, TypeVar

from redis import exceptions as redis_errors

from asynqpy.broker.connection import Connection
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerUnavailableError

T = TypeVar("T")

Word: TypeAlias = str | bytes | int | float

#: Everything redis-py raises of its own: the errors of its cluster client are no ``RedisError``.
_ALL_ERRORS = (redis_errors.RedisError, redis_errors.RedisClusterException)
_AUTH_ERRORS = (redis_errors.AuthenticationError, redis_errors.NoPermissionError)
_AUTH_CODES = ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username-password", "invalid password")
_UNAVAILABLE_ERRORS = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.SlotNotCoveredError,
    OSError,
    TimeoutError,
)


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
    """A command or a script with its arguments, and how to read the answer."""

    words: tuple[Word, ...]
    read: Callable[[Any], T]
    script: Script | None = None

    def by_text(self) -> tuple[Word, ...]:
        """The words that carry the script's text instead of its digest."""
        assert self.script is not None
        return ("EVAL", self.script.text, *self.words[2:])


def command(*words: Word, read: Callable[[Any], T]) -> Call[T]:
    return Call(words, read)


def script_call(
    name: str, keys: Sequence[str], args: Sequence[Word], read: Callable[[Any], T]
) -> Call[T]:
    script = load(name)
    return Call(("EVALSHA", script.sha, len(keys), *keys, *args), read, script)


def nothing(answer: object) -> None:
    """For a call whose answer says nothing."""


class Runner:
    """Sends calls through a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def run(self, call: Call[T]) -> T:
        """Send one call. Raises ``BrokerError``."""
        (answer,) = await self.run_all([call])
        if isinstance(answer, BrokerError):
            raise answer
        result: T = answer
        return result

    async def run_all(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Send all calls in one pipeline; return the answer or the ``BrokerError`` of each, in order.

        Raises ``BrokerError`` when the connection failed: then any of the calls may have run.
        """
        replies = await self._send([call.words for call in calls])
        await self._resend_unknown_scripts(calls, replies)
        return [
            self.translate(reply) if isinstance(reply, Exception) else call.read(reply)
            for call, reply in zip(calls, replies, strict=True)
        ]

    async def _resend_unknown_scripts(self, calls: Sequence[Call[Any]], replies: list[Any]) -> None:
        unknown = [
            i for i, reply in enumerate(replies) if isinstance(reply, redis_errors.NoScriptError)
        ]
        if unknown:
            again = await self._send([calls[i].by_text() for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply

    async def _send(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        if self._connection.is_closed:
            raise self.closed_error()
        with self.errors():
            async with self._connection.client.pipeline(transaction=False) as pipeline:
                for words in commands:
                    pipeline.execute_command(*words)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    def closed_error(self) -> BrokerError:
        """For whoever asks after ``close``, or was waiting when it came."""
        return BrokerError(f"the connection to Redis at {self._connection.description} is closed")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever the redis library raises into a ``BrokerError``."""
        try:
            yield
        except (*_ALL_ERRORS, OSError, TimeoutError) as error:
            raise self.translate(error) from error
        except RuntimeError as error:
            if "loop" not in str(error):
                raise
            raise BrokerError(
                f"the connection to Redis at {self._connection.description} belongs to the event "
                f"loop that used it first, and this is another ({error}): make one for each loop"
            ) from error

    def translate(self, error: Exception) -> BrokerError:
        where, text = self._connection.description, str(error) or type(error).__name__
        if isinstance(error, _AUTH_ERRORS) or any(code in text for code in _AUTH_CODES):
            return BrokerAuthError(
                f"Redis at {where} refused these credentials or this command ({text}): "
                "check user, password and ACL"
            )
        if isinstance(error, _UNAVAILABLE_ERRORS):
            if "connecting to" in text:
                return BrokerUnavailableError(
                    f"Redis at {where} could not be reached ({text}): "
                    "check that it runs, the address, and TLS (rediss://)"
                )
            return BrokerUnavailableError(
                f"Redis at {where} broke the connection or did not answer ({text}): "
                "a write under way may have happened"
            )
        return BrokerError(f"Redis at {where} answered: {text}")


def is_wrong_type(error: object) -> bool:
    """Whether Redis complained that a key holds another type than the script expects."""
    return isinstance(error, BrokerError) and "WRONGTYPE" in str(error)
