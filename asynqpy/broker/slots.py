"""Which node of a cluster holds which key: values only, nothing is sent.

A key belongs to one of 16,384 slots, by the hash of its tag, and each slot to one primary (Redis Cluster
specification, "Keys distribution model"; the answer of ``CLUSTER SLOTS``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import Any, TypeAlias

from redis.crc import key_slot

from asynqpy.broker.redis_url import Endpoint

SLOTS = 16_384

Remap: TypeAlias = Callable[[Endpoint], Endpoint]
"""The address at which a node is reached, from the one that it announces."""

#: Commands that name no key. What is not here, nor a script, has a key as its first argument.
_KEYLESS = frozenset(
    ("CLUSTER", "DBSIZE", "INFO", "PING", "PUBLISH", "SCAN", "SCRIPT", "TIME", "WAIT")
)


def key_of(command: Sequence[Any]) -> str | bytes | None:
    """The first key of a command: all its keys must share a slot. None where it has none."""
    name = command[0]
    if name in ("EVALSHA", "EVAL"):
        return command[3] if int(command[2]) else None
    return None if name in _KEYLESS else command[1]


def slot_of(key: str | bytes) -> int:
    text = key if isinstance(key, str) else key.decode("latin-1")
    start = text.find("{") + 1
    end = text.find("}", start) if start else -1
    return _slot_of_tag(text[start:end] if end > start else text, isinstance(key, bytes))


@lru_cache(maxsize=4096)
def _slot_of_tag(tag: str, is_latin: bool) -> int:
    # The braces of a key without a tag mean nothing in it, and those of a tag are cut off.
    return int(key_slot(tag.encode("latin-1" if is_latin else "utf-8")))


@dataclass(frozen=True)
class SlotMap:
    """Who holds what, as one node of the cluster sees it.

    ``owners`` has an entry for each slot, None where nobody holds it. ``replicas`` hold copies only.
    """

    owners: tuple[Endpoint | None, ...] = (None,) * SLOTS
    replicas: frozenset[Endpoint] = frozenset()

    @classmethod
    def parse(cls, answer: Iterable[Any], asked: Endpoint, remap: Remap | None = None) -> SlotMap:
        """Read the answer of ``CLUSTER SLOTS``; a node that does not know its own address is at the ``asked`` one's."""
        owners: list[Endpoint | None] = [None] * SLOTS
        replicas: set[Endpoint] = set()
        for first, last, *nodes in answer:
            primary, *copies = (_endpoint(node, asked, remap) for node in nodes)
            owners[int(first) : int(last) + 1] = [primary] * (int(last) + 1 - int(first))
            replicas.update(copies)
        return cls(tuple(owners), frozenset(replicas))

    @cached_property
    def is_whole(self) -> bool:
        """Whether every slot has an owner."""
        return None not in self.owners

    @cached_property
    def primaries(self) -> tuple[Endpoint, ...]:
        """Those that hold slots, in the order of their first."""
        return tuple(it for it in dict.fromkeys(self.owners) if it is not None)

    def moved(self, slot: int, owner: Endpoint) -> SlotMap:
        """The map after one slot has gone to another owner."""
        owners = (*self.owners[:slot], owner, *self.owners[slot + 1 :])
        return SlotMap(owners, self.replicas - {owner})


def _endpoint(node: Sequence[Any], asked: Endpoint, remap: Remap | None) -> Endpoint:
    host, port = _text(node[0]), int(node[1])
    # Empty or null: reach it as you reached me. "?": it announces a host name, and has none.
    endpoint = Endpoint(host if host not in ("", "?") else asked.host, port)
    return endpoint if remap is None else remap(endpoint)


def _text(host: bytes | str | None) -> str:
    return host.decode() if isinstance(host, bytes) else host or ""


def tag_within(owns: Callable[[int], bool]) -> str:
    """A tag whose slot is one of those that ``owns`` says yes to; there must be one."""
    names = (f"{start:x}" for start in count(random.getrandbits(48)))
    return next(name for name in names if owns(key_slot(name.encode())))


def units(commands: Sequence[Sequence[Any]]) -> Iterator[tuple[int | None, range]]:
    """Runs of commands that go to one node together: the slot, and the places.

    A command without a key belongs to the one before it, or to the first with a key where there is none before. The
    slot is None where no command has a key.
    """
    begin, slot = 0, None
    for place, command in enumerate(commands):
        key = key_of(command)
        if key is None:
            continue
        if slot is not None:
            yield slot, range(begin, place)
            begin = place
        slot = slot_of(key)
    yield slot, range(begin, len(commands))
