"""Searches queues for damage, piece by piece, and puts it right: what the reconciler and the doctor share.

Whatever looks wrong on the way is only a suspicion, as Redis goes on meanwhile: a script looks again and acts in one
step, so nothing is told, let alone changed, that was not wrong at that very moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH, chunks
from asynqpy.broker.healer import Healer, Step, Steps, group_key
from asynqpy.broker.keyspace import WALKED, Keyspace
from asynqpy.broker.maintenance import container_types
from asynqpy.broker.messages import TaskState
from asynqpy.broker.reconciling import (
    Suspect,
    survey_list_call,
    survey_sorted_call,
    survey_tasks_call,
)
from asynqpy.broker.scripts import Runner, command
from asynqpy.broker.sightings import Sightings, mark
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError

#: Sorted sets of a queue, by the state of their tasks.
_SORTED = {
    TaskState.SCHEDULED: keys.scheduled,
    TaskState.RETRY: keys.retry,
    TaskState.ARCHIVED: keys.archived,
    TaskState.COMPLETED: keys.completed,
}

#: What follows the queue in keys that hold tasks. Counters, locks and the pause outlive a queue that was removed.
_HOLDING = {"t", "g", *(key.rpartition(b":")[2].decode() for key in container_types("q"))}


class Reconciliation:
    """One search of some queues. Every step takes Redis a few milliseconds at most; the caller sets the pace.

    With ``heal`` what is found is put right, else it is only told. With ``decode`` every message is read as well.
    ``longest`` is the longest ``pending`` that is remembered as a whole (8 bytes an id); of a queue with a longer one
    pending tasks that are in no list are not found. ``None`` remembers any.
    """

    def __init__(
        self,
        runner: Runner,
        clock: Clock,
        *,
        heal: bool,
        decode: bool = False,
        longest: int | None = None,
    ) -> None:
        self._runner = runner
        self._healer = Healer(runner, clock, heals=heal)
        self._keyspace = Keyspace(runner)
        self._clock = clock
        self._decode = decode
        self._longest = longest
        self._pending: dict[str, Sightings] = {}
        self._grouped: dict[str, dict[int, bytes]] = {}
        self._used: set[str] = set()
        self._tasks: Counter[str] = Counter()
        self._locked: set[str] = set()
        self._told: set[int] = set()
        #: Steps will have looked at about so many entries and keys at the end.
        self.total = 0
        #: Queues whose ``pending`` was too long to be remembered.
        self.skipped: list[str] = []

    @property
    def queues(self) -> list[str]:
        """The queues that were found so far."""
        return sorted(self._pending)

    @property
    def tasks(self) -> int:
        """How many tasks a search has counted so far."""
        return self._tasks.total()

    async def glance(self, queues: Iterable[str]) -> Steps:
        """Check what is quickly checked: leases, groups, aggregation sets, containers of the wrong type."""
        for queue in queues:
            step, is_there = await self._healer.check_containers(queue)
            yield step
            if is_there:
                yield await self._healer.check_registration(queue)
            async for step in self._check_active(queue):
                yield step
            async for step in self._check_index(queue):
                yield step

    async def search(self, queues: Sequence[str] | None = None) -> Steps:
        """Check everything, of some queues or of all that are there, registered or not.

        The order matters: containers of the wrong type are set aside before scripts use them, lists are read before
        the tasks that they should have, and locks come last, when it is clear which tasks stay.
        """
        async for step in self._search(queues):
            yield self._without_repetitions(step)

    def _without_repetitions(self, step: Step) -> Step:
        """What is not healed is found again by each walk that comes past it."""
        fresh = []
        for finding in step.findings:
            told = hash((finding.problem, finding.queue, finding.subject))
            if finding.is_healed or told not in self._told:
                fresh.append(finding)
            if not finding.is_healed:
                self._told.add(told)
        return Step(fresh, step.done)

    async def _search(self, queues: Sequence[str] | None) -> Steps:
        size = await self._keyspace.size()
        self.total = 3 * size
        started_ns = self._clock.now_ns()
        for queue in await self._registered() if queues is None else queues:
            yield await self._meet(queue)
        async for step in self._walk("", queues, self._check_found):
            yield step
        self.total = (1 + bool(self._tasks) + bool(self._locked)) * size
        for queue in self.queues:
            async for step in self._check_queue(queue):
                yield step
        if self._tasks:

            def check_tasks(queue: str, found: Sequence[bytes]) -> Steps:
                return self._check_tasks(queue, found, started_ns)

            async for step in self._walk("t:", queues, check_tasks):
                yield step
        if self._locked:
            async for step in self._walk("unique:", queues, self._check_locks):
                yield step

    async def _registered(self) -> list[str]:
        return [
            name.decode()
            async for members in self._members("SSCAN", keys.QUEUES)
            for name in members
            if _is_text(name)
        ]

    async def _meet(self, queue: str) -> Step:
        self._pending[queue], self._grouped[queue] = Sightings(), {}
        step, _ = await self._healer.check_containers(queue)
        return step

    async def _walk(
        self,
        kind: str,
        queues: Sequence[str] | None,
        check: Callable[[str, Sequence[bytes]], Steps],
    ) -> Steps:
        """Walk over the keys of the queues, and check each queue's of a page."""
        only = queues[0] if queues is not None and len(queues) == 1 else None
        async for page in self._keyspace.scan(keys.pattern(kind, only)):
            found: dict[str, list[bytes]] = {}
            for key in page:
                place = keys.parse(key)
                if place is not None and (queues is None or place[0] in queues):
                    found.setdefault(place[0], []).append(key)
            for queue, its_keys in found.items():
                for some in chunks(its_keys):
                    async for step in check(queue, some):
                        yield step
            yield Step(done=WALKED)

    # The walks over all keys.

    async def _check_found(self, queue: str, found: Sequence[bytes]) -> Steps:
        """The first walk: queues, groups, and what there is to walk for again."""
        if queue not in self._pending:
            yield await self._meet(queue)
        names: list[bytes] = []
        kinds: set[str] = set()
        for key in found:
            _, kind, rest = keys.parse(key) or ("", "", b"")
            kinds.add(kind)
            self._tasks[queue] += kind == "t"
            if kind == "g":
                names.append(rest)
        if "unique" in kinds:
            self._locked.add(queue)
        if kinds & _HOLDING and queue not in self._used:
            self._used.add(queue)
            yield await self._healer.check_registration(queue)
        if names:
            async for step in self._check_groups(queue, names):
                yield step

    async def _check_groups(self, queue: str, names: Sequence[bytes]) -> Steps:
        step, sets = await self._healer.check_groups(queue, names)
        yield step
        group_of = {name: name for name in names}
        for name in sets:
            async for step in self._healer.reclaim(queue, name):
                yield step
            group_of[name] = name.rpartition(b":")[0]
        # What was reclaimed is in its group now, which may have been looked at before.
        group_of |= {group: group for group in group_of.values()}
        for name, group in group_of.items():
            async for step in self._check_group(queue, name, group):
                yield step

    async def _check_tasks(self, queue: str, found: Sequence[bytes], started_ns: int) -> Steps:
        """The second walk: every task is in a list, and can be read."""
        prefix = keys.task_prefix(queue).encode()
        ids = [key.removeprefix(prefix) for key in found]
        page = await self._runner.run(survey_tasks_call(queue, ids))
        pending, grouped = self._pending.get(queue, ()), self._grouped.get(queue, {})
        wrong = [*page.wrong, *(i for i in page.aggregating if mark(i) not in grouped)]
        if queue not in self.skipped:
            # What has become pending since then may have missed the look at the list.
            wrong += [i for i, at in page.pending if i not in pending and _ns(at) < started_ns]
        suspects = await self._healer.suspects(queue, wrong)
        if self._decode:
            suspects += await self._healer.unreadable(queue, ids)
        async for step in self._healer.reconcile(queue, suspects):
            yield step

    async def _check_locks(self, queue: str, locks: Sequence[bytes]) -> Steps:
        """The third walk: every lock has a task."""
        yield await self._healer.check_locks(queue, locks)

    # Containers, and what they list.

    async def _check_queue(self, queue: str) -> Steps:
        """Everything that the containers of a queue list."""
        async for step in self._check_active(queue):
            yield step
        async for step in self._check_pending(queue):
            yield step
        for state, key in _SORTED.items():
            async for step in self._check_sorted(queue, key(queue), state):
                yield step
        async for step in self._check_index(queue):
            yield step

    async def _check_active(self, queue: str) -> Steps:
        """``active`` and ``lease`` have the same ids. Leases are read first: who takes a task later is in both."""
        leased: set[bytes] = set()
        async for members in self._members("ZSCAN", keys.lease(queue)):
            leased.update(members)
        active: set[bytes] = set()
        repeated: set[bytes] = set()

        def note(ids: Sequence[bytes]) -> None:
            repeated.update(active.intersection(ids))
            active.update(ids)

        async for step in self._check_list(queue, keys.active(queue), TaskState.ACTIVE, note):
            yield step
        suspects = [Suspect(task_id) for task_id in (leased - active) | repeated]
        async for step in self._healer.reconcile(queue, suspects):
            yield step

    async def _check_pending(self, queue: str) -> Steps:
        seen, key = Sightings(), keys.pending(queue)
        (length,) = await self._healer.lengths(key)
        remembers = self._longest is None or length <= self._longest
        note = seen.add if remembers else _forget
        async for step in self._check_list(queue, key, TaskState.PENDING, note):
            yield step
        self._pending[queue] = seen
        repeated = seen.close()
        if not remembers:
            self.skipped.append(queue)
        elif repeated:
            async for step in self._check_repeated(queue, repeated):
                yield step

    async def _check_repeated(self, queue: str, repeated: set[int]) -> Steps:
        """Find the ids that came twice; on a busy list most did because it moved on while it was read."""
        ids: set[bytes] = set()
        start, page = 0, [b""]
        while page:
            words = ("LRANGE", keys.pending(queue), start, start + MAX_BATCH - 1)
            page = await self._runner.run(command(*words, read=list))
            ids.update(task_id for task_id in page if mark(task_id) in repeated)
            start += MAX_BATCH
            yield Step()
        suspects = [Suspect(task_id, in_pending=True) for task_id in ids]
        async for step in self._healer.reconcile(queue, suspects):
            yield step

    async def _check_list(
        self, queue: str, key: str, state: TaskState, note: Callable[[Sequence[bytes]], None]
    ) -> Steps:
        """From the head: what is taken at the tail meanwhile moves nothing, what is pushed is read twice."""
        start, count = 0, MAX_BATCH
        while count == MAX_BATCH:
            try:
                page = await self._runner.run(survey_list_call(queue, key, state, start))
            except BrokerError as error:
                self._healer.excuse(error)
                return
            suspects = [Suspect(i, in_pending=state is TaskState.PENDING) for i in page.wrong]
            is_healed = False
            async for step in self._healer.reconcile(queue, suspects):
                is_healed = is_healed or any(finding.is_healed for finding in step.findings)
                yield step
            if is_healed:
                continue  # what has left the list let the rest move up: look here again
            note(page.ids)
            start, count = start + MAX_BATCH, len(page.ids)
            self.total += count
            yield Step(done=count)

    async def _check_group(self, queue: str, name: bytes, group: bytes) -> Steps:
        """``name`` is that of a group, or of an aggregation set of it."""
        seen = self._grouped[queue]

        async def look(ids: Sequence[bytes]) -> list[Suspect]:
            others = {i: seen.setdefault(mark(i), name) for i in ids}
            found = [Suspect(i, names=(name, it)) for i, it in others.items() if it != name]
            if self._decode:
                found += await self._healer.unreadable(queue, ids, (name,))
            return found

        async for members in self._members("ZSCAN", group_key(queue, name)):
            for some in chunks(members):
                call = survey_sorted_call(
                    queue, group_key(queue, name), TaskState.AGGREGATING, some, group
                )
                page = await self._runner.run(call)
                suspects = [Suspect(task_id, names=(name,)) for task_id in page.wrong]
                suspects += await look(page.ids)
                async for step in self._healer.reconcile(queue, suspects):
                    yield step

    async def _check_sorted(self, queue: str, key: str, state: TaskState) -> Steps:
        async for members in self._members("ZSCAN", key):
            for some in chunks(members):
                page = await self._runner.run(survey_sorted_call(queue, key, state, some))
                suspects = [Suspect(task_id) for task_id in page.wrong]
                async for step in self._healer.reconcile(queue, suspects):
                    yield step
                self.total += len(some)
                yield Step(done=len(some))

    async def _check_index(self, queue: str) -> Steps:
        """Listed groups have members, listed aggregation sets are there, and at work."""
        async for members in self._members("SSCAN", keys.groups(queue)):
            for names in chunks(members):
                step, _ = await self._healer.check_groups(queue, names)
                yield step
        async for members in self._members("ZSCAN", keys.aggregation_sets(queue)):
            for entry in members:
                async for step in self._healer.check_entry(queue, entry):
                    yield step

    async def _members(self, word: str, key: str | bytes) -> AsyncIterator[list[bytes]]:
        """The members of a set or a sorted set, a page at a time; none of a key that holds something else."""
        cursor, is_first = 0, True
        while cursor or is_first:
            is_first = False
            call = command(word, key, cursor, "COUNT", MAX_BATCH, read=_scanned)
            try:
                cursor, members = await self._runner.run(call)
            except BrokerError as error:
                self._healer.excuse(error)
                return
            yield members


def _scanned(answer: tuple[Any, Sequence[Any]]) -> tuple[int, list[bytes]]:
    """Cursor and members; redis-py pairs the members of a sorted set with their scores."""
    cursor, items = answer
    return int(cursor), [item if isinstance(item, bytes) else item[0] for item in items]


def _is_text(name: bytes) -> bool:
    return name == name.decode("utf-8", "replace").encode()


def _ns(since: bytes) -> int:
    """A ``pending_since``; 0 where there is none, or no number."""
    return int(since) if since.isdigit() else 0


def _forget(ids: Sequence[bytes]) -> None:
    """Of a list that is too long to be remembered."""
