"""Cuts work into script calls, and lays the answers per task back in order.

A script takes tasks of one queue, few enough for Lua's stack and Redis' patience: so a mixed list becomes several calls
of one pipeline, each remembering which places of the list it answers for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from asynqpy.broker.scripts import Call, Runner
from asynqpy.errors import BrokerError

#: Most tasks of one script call. Other clients wait while a script runs: 500 tasks take a few milliseconds.
MAX_BATCH = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """A call that answers one ``T`` for each of ``places`` of the caller's list, in their order."""

    call: Call[list[T]]
    places: Sequence[int]


def by_key(
    items: Sequence[T], key: Callable[[T], Hashable], size: int = MAX_BATCH
) -> Iterator[tuple[Any, list[int]]]:
    """Places of ``items`` grouped by key, in chunks of at most ``size``, order kept within a key."""
    groups: dict[Hashable, list[int]] = {}
    latest: Hashable = None
    places: list[int] = []
    for place, item in enumerate(items):
        value = key(item)
        # Mostly it is that of the item before, and that is sooner told than looked up.
        if not groups or value != latest:
            latest, places = value, groups.setdefault(value, [])
        places.append(place)
    for value, all_places in groups.items():
        for chunk in chunks(all_places, size):
            yield value, chunk


def chunks(items: Sequence[T], size: int = MAX_BATCH) -> Iterator[list[T]]:
    """Consecutive runs of at most ``size`` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def spread(batches: Sequence[Batch[T]], answers: Sequence[Any]) -> list[T | BrokerError]:
    """Answers per call to answers per task; a call that failed answers its error for each of its tasks."""
    count = sum(len(batch.places) for batch in batches)
    spread_out: list[Any] = [None] * count
    for batch, answer in zip(batches, answers, strict=True):
        each = [answer] * len(batch.places) if isinstance(answer, BrokerError) else answer
        for place, one in zip(batch.places, each, strict=True):
            spread_out[place] = one
    return spread_out


async def run_batches(runner: Runner, batches: Sequence[Batch[T]]) -> list[T | BrokerError]:
    """Send the batches in one pipeline. Raises ``BrokerError`` when the connection failed."""
    return spread(batches, await runner.run_all([batch.call for batch in batches]))
