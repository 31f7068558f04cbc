"""Which keys exist, as far as Redis tells of changes: a small cache that stands in for polling.

``EXISTS`` of many keys is asked on a line of its own (``tracking.py``), and so Redis tells of the next change of each.
A key that has changed is not asked for again until somebody wants to know, so keys that change all the time cost
nothing while nobody waits for them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import NoReturn, Protocol, TypeAlias

from asynqpy.broker import keys
from asynqpy.broker.batches import by_key, chunks
from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.broker.slots import slot_of, tag_within
from asynqpy.broker.tracking import Changes, TrackingLine
from asynqpy.errors import BrokerError, BrokerUnavailableError

#: Seconds between two checks of the line, and for an answer: together, how long a dead line goes unnoticed.
_CHECK_AFTER = 5.5
_ANSWER_TIMEOUT = 1.5

#: Seconds for the proof that changes are told, and between two of them.
_PROOF_TIMEOUT = 2.0
_PROVE_AFTER = 30.0

#: Seconds before an outage that others have met is noticed.
_LOOK_AFTER = 1.0

#: Seconds that ``absent`` waits for answers.
_PATIENCE = 0.5

#: Keys in one question; where some of them exist and others do not, in each of those that follow.
_MOST_ASKED = 512
_DIVISOR = 16


Listener: TypeAlias = Callable[[str, bool | None], None]
"""Told of a key whether it exists, and ``None`` when that is no longer known."""


@dataclass(frozen=True, slots=True)
class _Question:
    """How many of the keys exist? A check knows (``expected``) unless one of them changes meanwhile.

    A proof does not want to know.
    """

    keys: Sequence[str]
    expected: int | None = None
    is_proof: bool = False


class Watch(Protocol):
    """What a server needs of a ``KeyWatch``, where they are described, or of a ``ClusterWatch``."""

    @property
    def is_live(self) -> bool: ...

    def on_news(self, names: Iterable[str], listener: Listener) -> None: ...

    def exists(self, key: str) -> bool | None: ...

    def mark(self, names: Iterable[str]) -> int | None: ...

    def ask(self, names: Iterable[str]) -> None: ...

    async def absent(self, names: Collection[str]) -> set[str]: ...

    async def open(self) -> None: ...

    async def run(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Share:
    """What a watch looks after in a cluster: the keys of one node, which has the slots that ``owns`` says yes to."""

    node: Endpoint
    owns: Callable[[int], bool]


class KeyWatch:
    """Knows of keys that they exist, that they do not, or nothing.

    Between ``open`` and ``close`` it is live: what it knows is true, but for the moment that the message of a change
    takes. Otherwise it knows nothing.
    """

    def __init__(
        self,
        connection: Connection,
        share: Share | None = None,
        learned: Iterator[int] | None = None,
    ) -> None:
        """Of a cluster there must be a ``share``. ``learned`` counts keys learned, also by other watches."""
        self.is_live = False
        self._share = share
        self._connection = connection
        self._runner = Runner(connection)
        self._outages = 0
        self._line: TrackingLine | None = None
        self._known: dict[str, bool] = {}
        #: Those known not to exist.
        self._absent: set[str] = set()
        #: When each was learned, in number of keys learned before.
        self._learned: dict[str, int] = {}
        self._count = learned or count(1)
        self._listeners: dict[str, Listener] = {}
        self._questions: deque[_Question] = deque()
        self._being_asked: set[str] = set()
        self._all_answered = asyncio.Event()
        self._proof = ""
        #: A key that nobody ever writes.
        self._canary = ""
        self._next_check = self._next_proof = 0.0
        self._answer_due = 0.0

    @property
    def _name(self) -> str:
        return f"Redis at {self._share.node if self._share else self._connection.description}"

    def on_news(self, names: Iterable[str], listener: Listener) -> None:
        """Have ``listener(key, exists)`` told what becomes known, and, by ``None``, what is no longer.

        It is told ``None`` of all its keys when the watch goes live and when it ends. A key has one listener.
        """
        self._listeners |= dict.fromkeys(names, listener)

    def exists(self, key: str) -> bool | None:
        """Whether the key exists; ``None`` when that is not known."""
        return self._known.get(key)

    def mark(self, names: Iterable[str]) -> int | None:
        """A number that is another once any of the keys has changed; ``None`` when that is not known."""
        learned = [self._learned[it] if it in self._known else 0 for it in names]
        return max(learned) if all(learned) else None

    def ask(self, names: Iterable[str]) -> None:
        """Find out about those keys of which nothing is known. Does not wait."""
        if not self.is_live:
            return
        unknown = [it for it in names if it not in self._known and it not in self._being_asked]
        self._being_asked.update(unknown)
        self._send([_Question(part) for part in self._askable(unknown)])

    def _askable(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Parts that can be one question: of a cluster, the keys of one slot."""
        if self._share is None:
            yield from chunks(names, _MOST_ASKED)
        else:
            for _, places in by_key(names, slot_of, _MOST_ASKED):
                yield [names[place] for place in places]

    async def absent(self, names: Collection[str]) -> set[str]:
        """Those keys of which it is known, or becomes known in a moment, that they do not exist."""
        wanted = set(names)
        if wanted <= self._absent:
            return wanted
        self.ask(names)
        if self.is_live and not self._all_answered.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._all_answered.wait()
        return wanted & self._absent

    async def open(self) -> None:
        """Connect, and see with own eyes that Redis tells of a change. Raises ``BrokerError``."""
        if self._connection.breaker.is_open:
            await self._runner.run(command("PING", read=nothing))
        self._outages = self._connection.breaker.outages
        self._line = TrackingLine(
            self._connection, self._take, self._share.node if self._share else None
        )
        await self._line.open()
        proof = await self._prove()
        await self._runner.run(command("DEL", proof, read=nothing))
        self.is_live = True
        self._forget_all()

    async def _prove(self) -> str:
        """See that what is written on another connection, as by all whose changes matter, is told on the line.

        Answers the key that was written; it goes by itself in a moment.
        """
        proof, canary = self._proof_keys()
        self._proof, self._canary = proof, canary
        question = _Question([proof, canary], is_proof=True)
        self._send([question])
        await self._receive_until(lambda: question not in self._questions)
        lifetime = int(_PROOF_TIMEOUT * 1000)
        await self._runner.run(command("SET", proof, "", "PX", lifetime, read=nothing))
        await self._receive_until(lambda: not self._proof)
        now = time.monotonic()
        self._next_check, self._next_proof = now + _CHECK_AFTER, now + _PROVE_AFTER
        return proof

    def _proof_keys(self) -> tuple[str, str]:
        token = secrets.token_hex(8)
        if self._share is not None:
            tag = tag_within(self._share.owns)
            return keys.tracking(f"{{{tag}}}{token}"), keys.tracking(f"{{{tag}}}{token}:")
        # In different slots: of one node of a cluster, reached as if it were all, neither is to be had.
        return keys.tracking("{a}" + token), keys.tracking("{b}" + token)

    async def _receive_until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PROOF_TIMEOUT
        while not is_done():
            heard = await self._receive(max(0.0, deadline - time.monotonic()))
            if not heard and time.monotonic() >= deadline and not is_done():
                raise BrokerError(f"{self._name} agreed to tell of changes, but tells nothing")

    async def run(self) -> NoReturn:
        """Keep what is known true until the line breaks; always raises ``BrokerError``."""
        while True:
            now = time.monotonic()
            self._runner.refuse_after_outage(self._outages)
            if now >= self._next_proof:
                await self._prove()
            elif not self._questions and now >= self._next_check:
                self._check(now)
            due = self._answer_due if self._questions else self._next_check
            heard = await self._receive(min(_LOOK_AFTER, max(0.0, due - now)))
            if not heard and self._questions and time.monotonic() >= self._answer_due:
                raise BrokerUnavailableError(f"{self._name} fell silent on the line of changes")

    async def close(self) -> None:
        """Know nothing any more, and give the connection up. Idempotent."""
        line, self._line = self._line, None
        was_live, self.is_live = self.is_live, False
        self._questions.clear()
        self._being_asked.clear()
        self._all_answered.set()
        self._proof = self._canary = ""
        if was_live:
            self._forget_all()
        if line is not None:
            await line.close()

    def _send(self, questions: Sequence[_Question]) -> None:
        if not questions:
            return
        assert self._line is not None
        if not self._questions:
            self._answer_due = time.monotonic() + _ANSWER_TIMEOUT
            self._all_answered.clear()
        self._questions += questions
        self._line.send([("EXISTS", *question.keys) for question in questions])

    async def _receive(self, timeout: float) -> bool:
        """Wait ``timeout`` s at most; answers whether anything has come."""
        assert self._line is not None
        return await self._line.wait(timeout)

    def _take(self, item: int | Changes) -> None:
        """Take in what the line brings, as it comes: who waits for a change hears of it in the same turn."""
        if isinstance(item, int):
            self._answered(self._questions.popleft(), item)
        else:
            self._changed(item)
        self._answer_due = time.monotonic() + _ANSWER_TIMEOUT
        if not self._questions:
            self._all_answered.set()

    def _answered(self, question: _Question, found: int) -> None:
        names = question.keys
        if question.is_proof:
            return
        if question.expected is not None:
            self._compare(question, found)
        elif found in (0, len(names)):
            self._being_asked.difference_update(names)
            for name in names:
                self._learn(name, found > 0)
        else:
            self._send([_Question(it) for it in chunks(names, max(1, len(names) // _DIVISOR))])

    def _learn(self, name: str, exists: bool) -> None:
        self._known[name] = exists
        if not exists:
            self._absent.add(name)
        self._learned[name] = next(self._count)
        if name in self._listeners:
            self._listeners[name](name, exists)

    def _changed(self, changes: Changes) -> None:
        if changes is None:
            self._proof = self._canary = ""
            self._forget_all()
            return
        for name in (change.decode("utf-8", "replace") for change in changes):
            if name == self._proof:
                self._proof = ""
            elif name == self._canary:
                raise BrokerError(f"{self._name} forgets keys: tracking-table-max-keys is low")
            elif self._known.pop(name, None) is not None:
                self._absent.discard(name)
                if name in self._listeners:
                    self._listeners[name](name, None)

    def _forget_all(self) -> None:
        self._known.clear()
        self._absent.clear()
        for name, listener in self._listeners.items():
            listener(name, None)

    def _check(self, now: float) -> None:
        """Ask for what is known anyway: a sign of life, and a net for what was not told.

        Of many keys some at a time, the longest unchecked first.
        """
        self._next_check = now + _CHECK_AFTER
        names = list(islice(self._known, _MOST_ASKED))
        for name in names:
            self._known[name] = self._known.pop(name)  # to the end of the line
        known = [_Question(part, self._expected(part)) for part in self._askable(names)]
        self._send(known or [_Question([self._nobodys_key()], 0)])

    def _nobodys_key(self) -> str:
        return keys.tracking("" if self._share is None else f"{{{tag_within(self._share.owns)}}}")

    def _expected(self, names: Sequence[str]) -> int:
        return sum(self._known[name] for name in names)

    def _compare(self, question: _Question, found: int) -> None:
        names = [name for name in question.keys if name in self._known]
        is_as_asked = (
            len(names) == len(question.keys) and self._expected(names) == question.expected
        )
        if is_as_asked and found != question.expected:
            raise BrokerError(f"{self._name} did not tell of a change")
