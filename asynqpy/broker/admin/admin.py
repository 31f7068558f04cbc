"""The Admin: what people who look and steer do in Redis, one method each, values in and out.

Other clients wait while a script runs, so none takes more than ``_AT_ONCE`` tasks. What is about a whole state goes in
many steps, between which everything may change; each step looks again before it acts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from asynqpy.broker import keys
from asynqpy.broker.admin.listing import (
    Found,
    Record,
    container,
    list_tasks_call,
    score_call,
    task_call,
)
from asynqpy.broker.admin.moving import Move, Target, Verdict, move_tasks_call
from asynqpy.broker.admin.presence import (
    present_call,
    scheduler_entries_call,
    scheduler_events_call,
    server_call,
    workers_call,
)
from asynqpy.broker.admin.queues import (
    Counted,
    DailyStats,
    GroupInfo,
    QueueInfo,
    history_call,
    is_registered_call,
    last_days,
    memory_usage_call,
    pause_call,
    queue_info_call,
    remove_queue_call,
    unpause_call,
)
from asynqpy.broker.batches import chunks
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.consuming import text
from asynqpy.broker.exchange import Word
from asynqpy.broker.keyspace import Keyspace
from asynqpy.broker.messages import (
    SchedulerEnqueueEvent,
    SchedulerEntry,
    ServerInfo,
    TaskState,
    WorkerInfo,
)
from asynqpy.broker.reconciling import reclaim_set_call, release_leaked_locks_call
from asynqpy.broker.redis_url import Endpoint
from asynqpy.broker.scripts import Call, command
from asynqpy.broker.slots import slot_of
from asynqpy.clock import Clock, instant
from asynqpy.errors import BrokerError

#: Queues that are asked in one pipeline.
_QUEUES_AT_ONCE = 50

#: Those of whose groups the members are counted in one pipeline.
_GROUPS_AT_ONCE = 500

#: Tasks that one script lists or moves: some 5 ms of Redis' time where a million wait.
_AT_ONCE = 250

#: Tasks that were read before, of which one shows where to go on in a list.
_REMEMBERED = 1_000

#: Entries of a list among which they are looked for at a time.
_SEARCHED = 10_000

#: Keys of a removed queue that end in a day.
_DAILY = (b"processed", b"failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """A node of a Redis Cluster; ``address`` is ``host:port``."""

    id: str
    address: str


@dataclass(frozen=True, slots=True)
class Step:
    """How many tasks one step of a sweep has moved, and how many it and those before have passed by."""

    moved: int
    passed: int


class Admin:
    """A Redis that speaks asynq, for whoever looks and steers. Every method raises ``BrokerError``."""

    def __init__(self, redis: RedisSource, clock: Clock | None = None) -> None:
        self.broker = Broker(redis, clock)
        self.clock = self.broker.clock
        self._runner = self.broker.runner

    def __repr__(self) -> str:
        return f"<Admin {self.broker!r}>"

    async def close(self) -> None:
        """Close the connections, unless a caller's client brought them. Idempotent."""
        await self.broker.close()

    # Queues.

    async def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        names = await self._runner.run(command("SMEMBERS", keys.QUEUES, read=list))
        return sorted(text(name) for name in names)

    async def is_registered(self, queue: str) -> bool:
        """Whether there is such a queue."""
        await self.broker.keep_clock()
        return await self._runner.run(is_registered_call(queue))

    async def queue_infos(
        self, queues: Sequence[str], *, memory: bool
    ) -> list[QueueInfo | BrokerError]:
        """What each of the queues holds and has done, or why Redis does not tell."""
        await self.broker.keep_clock()
        answers: list[QueueInfo | BrokerError] = []
        for some in chunks(queues, _QUEUES_AT_ONCE):
            now = instant(self.clock.now())
            calls: list[Call[Counted] | Call[int]] = [queue_info_call(q, now) for q in some]
            calls += [memory_usage_call(queue) for queue in some if memory]
            counted = await self._runner.run_all(calls)
            sizes = counted[len(some) :] if memory else [None] * len(some)
            for queue, counts, size in zip(some, counted, sizes, strict=False):
                answers.append(await self._queue_info(queue, counts, size))
        return answers

    async def _queue_info(
        self, queue: str, counted: Counted | BrokerError, memory: int | BrokerError | None
    ) -> QueueInfo | BrokerError:
        if isinstance(counted, BrokerError):
            return counted
        if isinstance(memory, BrokerError):
            return memory
        aggregating = counted.aggregating
        if aggregating is None:
            aggregating = sum([group.size async for group in self.groups(queue)])
        pending, active, scheduled, retry, archived, completed = counted.sizes
        processed_total, failed_total, processed, failed = counted.counters
        now = self.clock.now()
        since = counted.pending_since_ns
        return QueueInfo(
            queue=queue,
            pending=pending,
            active=active,
            scheduled=scheduled,
            retry=retry,
            archived=archived,
            completed=completed,
            aggregating=aggregating,
            groups=counted.groups,
            processed=processed,
            failed=failed,
            processed_total=processed_total,
            failed_total=failed_total,
            is_paused=counted.is_paused,
            latency=timedelta(seconds=0 if since is None else max(0.0, now - since / 1e9)),
            memory_usage=memory,
            timestamp=instant(now),
        )

    async def history(self, queue: str, days: int) -> list[DailyStats]:
        """What the queue did on each of the last ``days`` (UTC), today first."""
        await self.broker.keep_clock()
        today = instant(self.clock.now()).date()
        return await self._runner.run(history_call(queue, list(last_days(today, days))))

    async def groups(self, queue: str) -> AsyncGenerator[GroupInfo, None]:
        """The groups with tasks that wait, in no order."""
        cursor, seen = b"0", set[bytes]()
        while True:
            words: tuple[Word, ...] = ("SSCAN", keys.groups(queue), cursor)
            call = command(*words, "COUNT", _GROUPS_AT_ONCE, read=list)
            cursor, found = await self._runner.run(call)
            names = [name for name in dict.fromkeys(found) if name not in seen]
            seen.update(names)
            prefix = keys.group_prefix(queue).encode()
            calls = [command("ZCARD", prefix + name, read=int) for name in names]
            sizes = await self._runner.run_all(calls)
            for name, size in zip(names, sizes, strict=True):
                yield GroupInfo(group=text(name), size=size if isinstance(size, int) else 0)
            if int(cursor) == 0:
                break

    async def pause(self, queue: str) -> bool:
        """Have no task of the queue taken any more; answers whether that is new."""
        await self.broker.keep_clock()
        return await self._runner.run(pause_call(queue, self.clock.now()))

    async def unpause(self, queue: str) -> bool:
        """Have tasks taken again; answers whether that is new."""
        return await self._runner.run(unpause_call(queue))

    async def remove_queue(self, queue: str) -> bool:
        """Remove a queue that is empty, and what is left of it; answers whether it was."""
        if not await self._runner.run(remove_queue_call(queue)):
            return False
        async for some in self._keys_of(queue):
            calls = [command("DEL", key, read=int) for key, kind in some if kind in _DAILY]
            locks = [key for key, kind in some if kind == b"unique"]
            await self._runner.run_each(calls)
            for batch in chunks(locks):
                await self._runner.run(release_leaked_locks_call(queue, batch, heal=True))
        # Last, so that a removal that was cut short can be found and ended.
        await self._runner.run(command("SREM", keys.QUEUES, queue, read=int))
        return True

    async def _keys_of(self, queue: str) -> AsyncGenerator[list[tuple[bytes, bytes]], None]:
        async for found in Keyspace(self._runner).scan(keys.pattern("", queue)):
            parsed = [(key, keys.parse(key)) for key in found]
            yield [(key, it[1].encode()) for key, it in parsed if it is not None and it[0] == queue]

    async def reclaim_stale_sets(self, queue: str) -> int:
        """Give the tasks of aggregation sets that nobody works on back to their groups; answers how many are left."""
        await self.broker.keep_clock()
        call = command("ZRANGE", keys.aggregation_sets(queue), 0, -1, read=list)
        prefix = keys.group_prefix(queue).encode()
        for entry in await self._runner.run(call):
            name, left = entry.removeprefix(prefix), 1
            while left:
                it = reclaim_set_call(queue, name, self.clock.now(), heal=True)
                left = (await self._runner.run(it)).left
        return await self._runner.run(command("ZCARD", keys.aggregation_sets(queue), read=int))

    # Tasks.

    async def find(self, queue: str, task_id: str) -> Found | None:
        """The record of one task, if there is one."""
        return await self._runner.run(task_call(queue, task_id))

    async def score(self, queue: str, state: TaskState, group: str, task_id: str) -> float | None:
        """The score of a task in the sorted set of its state; of an active one its lease."""
        is_active = state is TaskState.ACTIVE
        key = keys.lease(queue) if is_active else container(queue, state, group)
        return await self._runner.run(score_call(key, task_id))

    async def page(
        self, queue: str, state: TaskState, group: str, first: int, count: int
    ) -> list[Record]:
        """Up to ``count`` tasks of a state from the place ``first`` on; what cannot be read is among them."""
        found: list[Record] = []
        while len(found) < count:
            start, most = first + len(found), min(count - len(found), _AT_ONCE)
            call = list_tasks_call(queue, state, group, first=start, count=most)
            more = await self._runner.run(call)
            if not more:
                break
            found += more
        return found

    async def pages(
        self, queue: str, state: TaskState, group: str, count: int
    ) -> AsyncGenerator[list[Record], None]:
        """All tasks of a state, up to ``count`` at a time. Those that are there all the time come, and come once."""
        passed: deque[Record] = deque(maxlen=_REMEMBERED)
        while found := await self._next(queue, state, group, count, passed):
            passed.extendleft(found)
            yield found

    async def _next(
        self, queue: str, state: TaskState, group: str, count: int, passed: Sequence[Record]
    ) -> list[Record]:
        """The tasks that come after those that were passed, the last of which comes first."""
        first, after, searched = passed[0].index + 1 if passed else 0, list(passed)[:1], 0
        while True:
            call = list_tasks_call(
                queue, state, group, first=first, count=count, after=after, searched=searched
            )
            found = await self._runner.run(call)
            if found is not None:
                return found
            # In a list, and it has moved, or gone: so have all that were passed before it, or some of them are there.
            first, after = first - searched, list(passed)
            searched = _SEARCHED
            if first <= 0:
                first, after = 0, []

    async def move(
        self,
        queue: str,
        target: Target,
        moves: Sequence[Move],
        *,
        state: TaskState | None = None,
        group: str = "",
    ) -> list[str]:
        """Move tasks; answers a ``Verdict`` for each, or the state that it is in and may not be moved from."""
        await self.broker.keep_clock()
        answers: list[str] = []
        for some in chunks(moves, _AT_ONCE):
            call = move_tasks_call(queue, target, some, self.clock, state=state, group=group)
            told: list[str] = await self._runner.run(call)
            answers += told
        return answers

    async def sweep(
        self,
        queue: str,
        target: Target,
        state: TaskState,
        group: str = "",
        fits: Callable[[Record], bool] = lambda record: True,
    ) -> AsyncGenerator[Step, None]:
        """Move all tasks of a state that fit, and tell after each step.

        May be stopped after any step. What cannot be moved stays where it is: damage is for the doctor.
        """
        passed: deque[Record] = deque(maxlen=_REMEMBERED)
        while records := await self._next(queue, state, group, _AT_ONCE, passed):
            chosen = [record for record in records if fits(record)]
            moved = await self._move_listed(queue, target, chosen, state, group)
            staying = [record for record in records if record.raw_id not in moved]
            place = records[0].index
            passed.extendleft(replace(it, index=place + n) for n, it in enumerate(staying))
            yield Step(len(moved), place + len(staying))

    async def _move_listed(
        self,
        queue: str,
        target: Target,
        records: Sequence[Record],
        state: TaskState,
        group: str,
    ) -> set[str | bytes]:
        """Move what was listed in a state, as far as it is still there; answers the ids of what was moved."""
        left = [Move(it.raw_id, index=it.index) for it in records]
        moved: set[str | bytes] = set()
        while left:
            answers = await self.move(queue, target, left, state=state, group=group)
            told = list(zip(left, answers, strict=True))
            moved.update(it.id for it, answer in told if answer == Verdict.MOVED)
            # Those have another place by now, and the next call walks to the first of them at least.
            left = [Move(it.id) for it, answer in told if answer == Verdict.LATER]
        return moved

    # Who is there.

    async def servers(self) -> list[tuple[ServerInfo, list[WorkerInfo]]]:
        """The servers that show themselves, and what each of them runs."""
        await self.broker.keep_clock()
        names = await self._present(keys.SERVERS)
        servers = await self._runner.run_all([server_call(name) for name in names])
        names = await self._present(keys.WORKERS)
        workers: dict[str, list[WorkerInfo]] = {}
        for some in await self._runner.run_all([workers_call(name) for name in names]):
            for worker in [] if isinstance(some, BrokerError) else some:
                workers.setdefault(worker.server_id, []).append(worker)
        return [
            (server, workers.get(server.server_id, []))
            for server in servers
            if isinstance(server, ServerInfo)
        ]

    async def scheduler_entries(self) -> list[SchedulerEntry]:
        """The entries of all schedulers that show themselves, in the order of each scheduler's registrations."""
        await self.broker.keep_clock()
        names = await self._present(keys.SCHEDULERS)
        answers = await self._runner.run_all([scheduler_entries_call(name) for name in names])
        # Each is written by LPUSH, the last registered at the head.
        return [it for some in answers if isinstance(some, list) for it in reversed(some)]

    async def scheduler_events(
        self, entry_id: str, first: int, count: int
    ) -> list[SchedulerEnqueueEvent]:
        """What an entry has enqueued, the latest first."""
        return await self._runner.run(scheduler_events_call(entry_id, first, count))

    async def _present(self, listed_in: str) -> list[bytes]:
        return await self._runner.run(present_call(listed_in, self.clock.now()))

    # Cluster.

    def key_slot(self, queue: str) -> int:
        """The slot of a cluster that has all keys of the queue."""
        return slot_of(keys.pending(queue))

    async def cluster_nodes(self, queue: str) -> list[ClusterNode]:
        """The nodes of a cluster that have the queue, its primary first."""
        (node, *_) = await self._runner.primaries()
        slot = self.key_slot(queue)
        slots = await self._runner.ask(node, command("CLUSTER", "SLOTS", read=list))
        return [
            ClusterNode(id=text(node_id), address=str(Endpoint(text(host), int(port))))
            for first, last, *nodes in slots
            if first <= slot <= last
            for host, port, node_id, *_ in nodes
        ]
