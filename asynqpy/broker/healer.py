"""The steps of a search for damage that look at one thing, each atomic in Redis: told only, or put right as well."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asynqpy.broker import keys
from asynqpy.broker.batches import MAX_BATCH, chunks
from asynqpy.broker.consuming import text
from asynqpy.broker.exchange import Word
from asynqpy.broker.findings import Finding, Problem
from asynqpy.broker.maintenance import container_types, set_aside_wrong_types_call
from asynqpy.broker.reconciling import (
    Suspect,
    digest,
    readable,
    reclaim_set_call,
    reconcile_call,
    reindex_groups_call,
    release_leaked_locks_call,
    suspect_of,
)
from asynqpy.broker.scripts import Runner, command, is_wrong_type
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError

#: Entries of lists that one script call may search, some 20 ns each: a few milliseconds of Redis' time.
_SEARCHED = 100_000

#: Bytes of messages that are fetched at a time.
_FETCHED = 4 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of a search: what it found, and how many entries and keys it looked at."""

    findings: Sequence[Finding] = ()
    done: int = 0


Steps: TypeAlias = AsyncGenerator[Step, None]


class Healer:
    """Verifies what looks wrong. With ``heals`` it puts right what is wrong, else it only tells."""

    def __init__(self, runner: Runner, clock: Clock, *, heals: bool) -> None:
        self.heals = heals
        self._runner = runner
        self._clock = clock

    async def reconcile(self, queue: str, suspects: Sequence[Suspect]) -> Steps:
        """Verify tasks, so many at a time as the lengths of the lists allow."""
        if not suspects:
            return
        merged: dict[bytes, Suspect] = {}
        for suspect in suspects:
            known = merged.get(suspect.id)
            merged[suspect.id] = suspect if known is None else known.merged(suspect)
        searched = 1 + sum(await self.lengths(keys.pending(queue), keys.active(queue)))
        for some in chunks(list(merged.values()), max(1, min(MAX_BATCH, _SEARCHED // searched))):
            call = reconcile_call(queue, some, self._clock, heal=self.heals)
            findings = await self._runner.run(call)
            yield Step(findings)

    async def lengths(self, *lists: str) -> list[int]:
        """Lengths of lists; 0 of what is none."""
        calls = [command("LLEN", key, read=int) for key in lists]
        answers = await self._runner.run_all(calls)
        return [answer if isinstance(answer, int) else 0 for answer in answers]

    # Keys.

    async def check_containers(self, queue: str) -> tuple[Step, bool]:
        """Set containers of the wrong type aside; answers too whether there are any at all."""
        expected = container_types(queue)
        types = await self.types(list(expected))
        wrong = {key: kind for key, kind in expected.items() if types[key] not in (kind, "none")}
        return await self.set_aside(queue, wrong), any(kind != "none" for kind in types.values())

    async def types(self, found: Sequence[bytes]) -> dict[bytes, str]:
        """The types of keys, ``none`` of one that is not there."""
        answers = await self._runner.run_each([command("TYPE", key, read=_word) for key in found])
        return dict(zip(found, answers, strict=True))

    async def set_aside(self, queue: str, wrong: Mapping[bytes, str]) -> Step:
        """Keys of the wrong type, and the type that each should have."""
        if not wrong:
            return Step()
        names = [f"key:{text(key.partition(b'}:')[2])}" for key in wrong]
        if self.heals:
            names = await self._runner.run(set_aside_wrong_types_call(queue, wrong))
        subjects = [name.removeprefix("key:") for name in names]
        return Step([self._finding(Problem.WRONG_TYPE, queue, it, "set aside") for it in subjects])

    async def check_registration(self, queue: str) -> Step:
        """A queue that has something is in the list of queues."""
        if await self._runner.run(command("SISMEMBER", keys.QUEUES, queue, read=bool)):
            return Step()
        if self.heals:
            await self._runner.run(command("SADD", keys.QUEUES, queue, read=int))
        return Step([self._finding(Problem.UNREGISTERED, queue, queue, "registered")])

    async def check_locks(self, queue: str, locks: Sequence[bytes]) -> Step:
        """Every lock has a task."""
        call = release_leaked_locks_call(queue, locks, heal=self.heals)
        answer = await self._runner.run(call)
        aside = await self.set_aside(queue, dict.fromkeys(answer.wrong_types, "string"))
        return Step([*answer.findings, *aside.findings])

    # Groups and aggregation sets.

    async def check_groups(self, queue: str, names: Sequence[bytes]) -> tuple[Step, list[bytes]]:
        """Exactly the groups with members are listed; answers too which of the names are aggregation sets."""
        wrong = await self._no_sorted_sets(queue, names)
        aside = await self.set_aside(queue, wrong)
        call = reindex_groups_call(queue, names, heal=self.heals)
        findings, sets = await self._runner.run(call)
        return Step([*aside.findings, *findings]), sets

    async def _no_sorted_sets(self, queue: str, names: Sequence[bytes]) -> dict[bytes, str]:
        types = await self.types([group_key(queue, name) for name in names])
        return {key: "zset" for key, kind in types.items() if kind not in ("zset", "none")}

    async def check_entry(self, queue: str, entry: bytes) -> Steps:
        """A listed aggregation set is there, and at work."""
        prefix = group_key(queue, b"")
        name = entry.removeprefix(prefix)
        if entry.startswith(prefix) and b":" in name:
            async for step in self.reclaim(queue, name):
                yield step
            return
        if self.heals:
            words = ("ZREM", keys.aggregation_sets(queue), entry)
            await self._runner.run(command(*words, read=int))
        yield Step([self._set_finding(Problem.LOST_SET, queue, entry)])

    async def reclaim(self, queue: str, name: bytes) -> Steps:
        """Give the tasks of an aggregation set back to their group, unless somebody works on it."""
        wrong = await self._no_sorted_sets(queue, [name, name.rpartition(b":")[0]])
        yield await self.set_aside(queue, wrong)
        if wrong and not self.heals:
            return
        moved, left, problem = 0, 1, None
        while left:
            call = reclaim_set_call(queue, name, self._clock.now(), heal=self.heals)
            answer = await self._runner.run(call)
            problem, moved, left = answer.problem or problem, moved + answer.moved, answer.left
            yield Step()
        if problem:
            yield Step([self._set_finding(problem, queue, name, moved)])

    def _set_finding(self, problem: Problem, queue: str, name: bytes, moved: int = 0) -> Finding:
        if problem is Problem.STALE_SET:
            return self._finding(problem, queue, text(name), "reclaimed", f"{moved} tasks")
        return self._finding(problem, queue, text(name), "taken out of aggregation sets")

    # Records.

    async def suspects(self, queue: str, ids: Sequence[bytes]) -> list[Suspect]:
        """Tasks with what their messages say about where they belong."""
        return [
            suspect_of(queue, task_id, data, state)
            async for task_id, data, state in self._records(queue, ids)
        ]

    async def unreadable(
        self, queue: str, ids: Sequence[bytes], names: tuple[bytes, ...] = ()
    ) -> list[Suspect]:
        """Those whose message does not decode, or is another's; ``names`` are of a group that lists them."""
        return [
            Suspect(task_id, sha=digest(data), names=names)
            async for task_id, data, _ in self._records(queue, ids)
            if data is not None and readable(queue, task_id, data) is None
        ]

    async def _records(
        self, queue: str, ids: Sequence[bytes]
    ) -> AsyncIterator[tuple[bytes, bytes | None, bytes | None]]:
        """Id, message and state of each; nothing of what is gone, or is no hash."""
        for some in await self._portions(queue, ids):
            calls = [command("HMGET", _task(queue, i), "msg", "state", read=_pair) for i in some]
            answers = await self._runner.run_all(calls)
            for task_id, answer in zip(some, answers, strict=True):
                data, state = (None, None) if isinstance(answer, BrokerError) else answer
                yield task_id, data, state

    async def _portions(self, queue: str, ids: Sequence[bytes]) -> list[list[bytes]]:
        """Ids whose messages are fetched together."""
        calls = [command("HSTRLEN", _task(queue, i), "msg", read=int) for i in ids]
        portions: list[list[bytes]] = [[]]
        room = _FETCHED
        for task_id, size in zip(ids, await self._runner.run_all(calls), strict=True):
            room -= size if isinstance(size, int) else 0
            if room < 0 and portions[-1]:
                portions.append([])
                room = _FETCHED
            portions[-1].append(task_id)
        return portions

    def excuse(self, error: BrokerError) -> None:
        """Raise, unless it is a container of the wrong type that a dry run has told of and left where it is."""
        if self.heals or not is_wrong_type(error):
            raise error

    def _finding(
        self, problem: Problem, queue: str, subject: str, repair: str, detail: str = ""
    ) -> Finding:
        return Finding(problem, queue, subject, repair, detail, self.heals)


def group_key(queue: str, name: bytes) -> bytes:
    """The key of a group or an aggregation set."""
    return keys.group_prefix(queue).encode() + name


def _task(queue: str, task_id: bytes) -> Word:
    return keys.task_prefix(queue).encode() + task_id


def _word(answer: bytes | str) -> str:
    return answer if isinstance(answer, str) else answer.decode()


def _pair(answer: Sequence[bytes | None]) -> tuple[bytes | None, bytes | None]:
    first, second = answer
    return first, second
