"""The Broker: everything a producer and a worker do in Redis, one method each, values in and out.

No policy lives here: which task to take, when to retry and what counts as a failure come in as arguments. Operations of
people who look and steer (list, run, delete, pause …) are not here either; servers do not need them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from asynqpy.broker import keys
from asynqpy.broker.arrivals import Arrivals
from asynqpy.broker.batches import MAX_BATCH, Batch, by_key, run_batches, spread
from asynqpy.broker.cancellations import Cancellations
from asynqpy.broker.cluster_watch import watch_of
from asynqpy.broker.connection import Connection, RedisSource
from asynqpy.broker.consuming import (
    Dequeued,
    Unreadable,
    dequeue_call,
    extend_grant_call,
    orphan_call,
    requeue_grant_call,
    score,
    silent_leases_call,
    stamps,
)
from asynqpy.broker.exchange import Word
from asynqpy.broker.maintenance import (
    Forwarded,
    container_types,
    delete_expired_completed_call,
    forward_call,
    quarantine_call,
    set_aside_wrong_types_call,
)
from asynqpy.broker.memory_policy import MemoryPolicy
from asynqpy.broker.messages import ServerInfo, WorkerInfo
from asynqpy.broker.outcomes import (
    LEASE_SECONDS,
    Delivery,
    Grant,
    Lease,
    Orphan,
    Settlement,
    SilentLease,
)
from asynqpy.broker.producer import REPLICATION_TIMEOUT, Producer
from asynqpy.broker.producing import Answered, NewTask
from asynqpy.broker.reconciliation import Reconciliation
from asynqpy.broker.scripts import Call, Runner, command, is_wrong_type, nothing, script_call
from asynqpy.broker.settling import settle_batches
from asynqpy.clock import Clock
from asynqpy.errors import AsynqError, BrokerError, BrokerUnavailableError

logger = logging.getLogger("asynqpy.broker")

#: Seconds after which the clock is anchored to Redis again on the side of an enqueue.
_ANCHOR_AGAIN = 60.0

#: A round trip (s) after which the time of Redis is asked again: half of it is the error of the answer.
_SLOW_ROUND_TRIP = 0.01

#: Most times that it is asked in a row, of which the quickest answer counts.
_TIME_SAMPLES = 3

#: Most expired completed tasks that one call deletes.
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Turn:
    """What one round trip of a server brought.

    ``settled`` answers each settlement: True, False (lost to another holder) or the error Redis gave. ``backlog`` is
    what each asked queue still has pending. ``errors`` are of queues that could not be asked.
    """

    settled: Sequence[bool | BrokerError]
    deliveries: Sequence[Delivery]
    backlog: Mapping[str, int]
    errors: Mapping[str, BrokerError]


class Broker:
    """A Redis that speaks asynq. Its connections belong to the event loop that uses it first.

    Every method raises ``BrokerError`` (or its ``BrokerUnavailableError``, ``BrokerAuthError``) when Redis refuses or
    cannot be reached. After ``BrokerUnavailableError`` a write may have happened; every script may be run again.
    """

    def __init__(
        self,
        redis: RedisSource | Connection,
        clock: Clock | None = None,
        *,
        owner: str = "",
        replication_timeout: float = REPLICATION_TIMEOUT,
    ) -> None:
        """``owner`` is the ``ServerInfo.owner`` of the server whose tasks this broker takes.

        Replicas have ``replication_timeout`` s to confirm new tasks that wait for them.
        """
        self._connection = redis if isinstance(redis, Connection) else Connection.open(redis)
        self._runner = Runner(self._connection)
        self._stamps = stamps()
        #: When the next task of a sorted set is due (unix s), as long as the set's mark is this.
        self._delayed: dict[str, tuple[int, float]] = {}
        self._anchoring: asyncio.Task[None] | None = None
        self.owner = owner
        #: Whether dequeues tell since when each task has been pending.
        self.tell_since = False
        self.clock = clock or Clock()
        self._producer = Producer(self._connection, self._runner, self.clock, replication_timeout)
        #: For whoever keeps it open; until then nothing is known, and every queue is asked.
        self.key_watch = watch_of(self._connection)

    def __repr__(self) -> str:
        return f"<Broker {self._connection.description}>"

    @property
    def runner(self) -> Runner:
        """What its calls go through; for the rooms beside it that share its connections."""
        return self._runner

    @property
    def connection(self) -> Connection:
        return self._connection

    def sibling(self, *, timeout: float | None = None) -> Broker:
        """A broker on the same Redis and clock with connections of its own, for another thread's loop.

        It waits at most ``timeout`` s for Redis, or as long as this one.
        """
        connection = self._connection.sibling(timeout=timeout)
        return Broker(connection, self.clock, owner=self.owner)

    async def close(self) -> None:
        """Close the connections, unless a caller's client brought them. Idempotent."""
        if self._anchoring is not None:
            self._anchoring.cancel()
        await self._connection.close()

    async def ping(self) -> None:
        """Raise ``BrokerError`` unless Redis answers."""
        await self._runner.run(command("PING", read=nothing))

    async def memory_policies(self) -> list[MemoryPolicy]:
        """What Redis does when it is full, of a cluster each primary; nothing where it does not tell."""
        call = command("INFO", "memory", read=MemoryPolicy.of)
        policies = [await self._runner.ask(node, call) for node in await self._runner.primaries()]
        return [policy for policy in policies if policy is not None]

    async def sync_clock(self) -> None:
        """Anchor the clock to the time of Redis."""
        is_fresh, quickest = self.clock.anchor_age() <= _ANCHOR_AGAIN, math.inf
        for _ in range(_TIME_SAMPLES):
            redis_time, round_trip = await self._redis_time()
            if round_trip < quickest:
                self.clock.anchor(redis_time, round_trip)
                quickest = round_trip
            if is_fresh or round_trip <= _SLOW_ROUND_TRIP:
                break
            # It may have waited for a new connection on the way there; the next one finds it open.

    async def _redis_time(self) -> tuple[float, float]:
        """The time of Redis, and how long the answer took, s."""
        started = time.perf_counter()
        redis_time = await self._runner.run(_TIME)
        return redis_time, time.perf_counter() - started

    def check_waits(self) -> None:
        """Raises ``ValueError`` where a task cannot wait for replicas: through a ``RedisCluster`` of the caller's."""
        self._producer.check_waits()

    async def enqueue(
        self, tasks: Sequence[NewTask], answered: Answered | None = None, *, parts: int = 1
    ) -> list[AsynqError | None]:
        """Store new tasks in one pipeline. Answers per task: ``None`` stored, or why not.

        A reason is ``DuplicateTaskError``, ``TaskIdConflictError``, or the ``BrokerError`` of the script that was to
        store it. ``answered`` hears of tasks as soon as theirs is read, where that is possible; then it pays to send
        many in ``parts``, one after the other.

        Tasks with ``min_replicas`` travel apart. If too few confirm them, the answer is ``NotReplicatedError``, and
        they are stored. Raises ``ValueError`` for such a task through a ``RedisCluster`` of the caller's.
        """
        return await self._producer.enqueue(tasks, answered, parts)

    def now_if_kept(self) -> float | None:
        """The time, unix s, unless ``keep_clock`` is to be called first."""
        return self.clock.now_if_anchored(_ANCHOR_AGAIN)

    async def keep_clock(self) -> None:
        """Anchor the clock if that was long ago or never."""
        if self.clock.anchor_age() <= _ANCHOR_AGAIN:
            return
        if self._anchoring is None:
            # Of many callers at once the first asks Redis, and all share what comes of it.
            self._anchoring = asyncio.create_task(self.sync_clock(), name="asynqpy:anchor")
            self._anchoring.add_done_callback(self._forget_anchoring)
        anchoring = self._anchoring
        await asyncio.wait([anchoring])  # whose own cancel leaves it to the others
        if anchoring.cancelled():
            raise self._runner.closed_error()
        anchoring.result()

    def _forget_anchoring(self, anchoring: asyncio.Task[None]) -> None:
        self._anchoring = None
        if not anchoring.cancelled():
            anchoring.exception()  # those who still wait have it; it is no news to the loop

    async def publish_cancel(self, task_id: str) -> int:
        """Ask whichever server runs the task to cancel it; answers how many the asked node of Redis told."""
        return await self._runner.run(command("PUBLISH", keys.CANCEL_CHANNEL, task_id, read=int))

    def cancellations(self) -> Cancellations:
        """A subscription to the cancel channel, yet to be opened."""
        return Cancellations(self._connection)

    def arrivals(self, queues: Collection[str], arrived: Callable[[], None]) -> Arrivals:
        """Which of the queues may have tasks; ``arrived()`` is called when some may have come."""
        return Arrivals(self.key_watch, list(queues), arrived)

    def on_delayed(self, queues: Sequence[str], changed: Callable[[], None]) -> None:
        """Have ``changed()`` called when tasks may have been scheduled or put in retry since ``forward``."""
        names = _queue_of(_DELAYED, tuple(queues))
        self.key_watch.on_news(names, lambda _, exists: None if exists is not None else changed())

    async def marks(self, queues: Sequence[str]) -> dict[str, int]:
        """A number for each queue that is another once there may be something new for a ``glance``.

        It is 0 where there is nothing at all. Queues of which Redis does not tell have none, nor those in which
        something is under way: that can go wrong by the mere passing of time.
        """
        watched = {queue: [it.decode() for it in container_types(queue)] for queue in queues}
        names = [key for some in watched.values() for key in some]
        absent = await self.key_watch.absent([keys.QUEUES, *names])
        marks = {}
        for queue, some in watched.items():
            mark = self.key_watch.mark([keys.QUEUES, *some])
            if mark is not None and absent.issuperset(_under_way_keys(queue)):
                marks[queue] = 0 if absent.issuperset(some) else mark
        return marks

    def reconciliation(
        self, *, heal: bool, decode: bool = False, longest: int | None = None
    ) -> Reconciliation:
        """A search for damage, yet to be started."""
        return Reconciliation(self._runner, self.clock, heal=heal, decode=decode, longest=longest)

    async def take_turn(self, queues: Sequence[str], ttl: int) -> list[str]:
        """Those queues that nobody has searched for damage for ``ttl`` s: the owner is to do it now."""
        calls = [
            command("SET", keys.reconciler(queue), self.owner, "NX", "EX", ttl, read=bool)
            for queue in queues
        ]
        answers = await self._runner.run_all(calls)
        return [queue for queue, answer in zip(queues, answers, strict=True) if answer is True]

    def grant(self, queues: Iterable[str]) -> list[Grant]:
        """Leases to be given out by the next turn, one grant a queue."""
        expires_at = int(self.clock.now()) + LEASE_SECONDS
        stamp = next(self._stamps)
        return [
            Grant(queue, stamp, self.owner, expires_at, expires_at, expires_at) for queue in queues
        ]

    async def turn(
        self,
        settlements: Sequence[Settlement],
        wanted: Mapping[str, int],
        grants: Sequence[Grant] | None = None,
    ) -> Turn:
        """Settle what has ended and take up to so many tasks of each queue, in one round trip.

        The settlements are written first, unless Redis has forgotten their scripts. Queues wanted 0 only tell their
        backlog. Records that cannot be read are set aside and logged. ``grants`` are those of ``grant(wanted)``, for a
        caller that has them extended meanwhile.
        """
        settling = list(settle_batches(settlements, self.clock))
        grants = self.grant(wanted) if grants is None else grants
        asking = [
            dequeue_call(grant, wanted[grant.queue], tell_since=self.tell_since) for grant in grants
        ]
        answers = await self._runner.run_all([*(batch.call for batch in settling), *asking])
        settled = spread(settling, answers[: len(settling)])
        dequeued = {
            grant.queue: answer
            for grant, answer in zip(grants, answers[len(settling) :], strict=True)
        }
        try:
            await self._set_aside(settlements, settled, dequeued)
        except BrokerError as error:
            # The turn itself went well. What was not set aside comes back when its lease has run out.
            logger.warning("could not set unreadable records aside yet: %s", error)
        good = [answer for answer in dequeued.values() if isinstance(answer, Dequeued)]
        return Turn(
            settled=settled,
            deliveries=[delivery for answer in good for delivery in answer.deliveries],
            backlog={answer.queue: answer.backlog for answer in good},
            errors={q: answer for q, answer in dequeued.items() if isinstance(answer, BrokerError)},
        )

    async def _set_aside(
        self,
        settlements: Sequence[Settlement],
        settled: Sequence[bool | BrokerError],
        dequeued: Mapping[str, Dequeued | BrokerError],
    ) -> None:
        blocked = {q for q, answer in dequeued.items() if is_wrong_type(answer)}
        blocked |= {
            settlement.message.queue
            for settlement, answer in zip(settlements, settled, strict=True)
            if answer is not True and is_wrong_type(answer)
        }
        for queue in blocked:
            await self._set_aside_wrong_types(queue)
        for queue, answer in dequeued.items():
            if isinstance(answer, Dequeued):
                await self._quarantine(queue, keys.lease(queue), answer.unreadable)
                for task_id in answer.repeated:
                    logger.warning(
                        "task %s of queue %s was pending while it runs; dropped the second entry",
                        task_id,
                        queue,
                        extra={"task_id": task_id, "queue": queue},
                    )

    async def dequeue(self, wanted: Mapping[str, int]) -> Turn:
        """Take up to so many tasks of each queue: a turn that settles nothing."""
        return await self.turn([], wanted)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool | BrokerError]:
        """Write outcomes. Answers per task: True settled, False lost, or the error Redis gave."""
        return list((await self.turn(settlements, {})).settled)

    async def extend_lease(self, leases: Sequence[Lease]) -> list[Lease]:
        """Extend leases to ``LEASE_SECONDS`` from now and update them; answers those that are lost.

        Those of a queue that Redis refused keep their old expiry and are neither extended nor lost.
        """
        expires_at = int(self.clock.now()) + LEASE_SECONDS
        batches = []
        for queue, places in by_key(leases, lambda lease: lease.queue):
            args: list[Word] = []
            for lease in (leases[place] for place in places):
                args += (lease.id, lease.stamp, score(expires_at, lease.stamp))
            call = script_call("extend_lease", [keys.lease(queue)], args, _booleans)
            batches.append(Batch(call, places))
        answers = await run_batches(self._runner, batches)
        for lease, answer in zip(leases, answers, strict=True):
            if answer is True:
                lease.expires_at = expires_at
        errors = {str(answer): answer for answer in answers if isinstance(answer, BrokerError)}
        for error in errors.values():
            logger.log(_level(error), "could not extend leases: %s", error)
        return [lease for lease, answer in zip(leases, answers, strict=True) if answer is False]

    async def extend_grants(self, grants: Sequence[Grant]) -> None:
        """Extend what dequeues under way have given out to ``LEASE_SECONDS`` from now, and update the grants."""
        if not grants:
            return
        expires_at = int(self.clock.now()) + LEASE_SECONDS
        for grant in grants:
            # Known before it is sent: if the answer is lost, the leases may have the new expiry or the old one.
            grant.longest = max(grant.longest, expires_at)
        calls = [extend_grant_call(grant, expires_at) for grant in grants]
        for grant, answer in zip(grants, await self._runner.run_all(calls), strict=True):
            if isinstance(answer, BrokerError):
                logger.log(_level(answer), "could not extend leases: %s", answer)
            elif answer > 0:
                grant.expires_at = expires_at

    async def requeue_grants(self, grants: Sequence[Grant]) -> int:
        """Put back what dequeues gave out whose answers were lost; answers how many tasks that are."""
        calls = [requeue_grant_call(grant, self.clock.now_ns()) for grant in grants]
        return sum(await self._run_per_queue([grant.queue for grant in grants], calls))

    async def write_result(self, lease: Lease, data: bytes) -> bool:
        """Store the result of a running task; False when its lease is lost."""
        script_keys = [keys.task_prefix(lease.queue) + lease.id, keys.lease(lease.queue)]
        call = script_call("write_result", script_keys, [lease.id, lease.stamp, data], bool)
        return await self._runner.run(call)

    async def forward(self, queues: Sequence[str]) -> float | None:
        """Move all due tasks to pending; answers when the next one is due (unix s), if any is waiting."""
        queue_of = _queue_of(_DELAYED, tuple(queues))
        absent = await self.key_watch.absent(queue_of)
        sources = [(queue, key) for key, queue in queue_of.items() if key not in absent]
        # Taken before the scripts read: whatever changes after that makes them others.
        marks = {key: self.key_watch.mark([key]) for _, key in sources}
        now = self.clock.certainly()
        known = self._delayed.items()
        # What has not changed since it was asked for, and is not due.
        self._delayed = {k: it for k, it in known if it[0] == marks.get(k) and it[1] > now}
        next_due = [due for _, due in self._delayed.values()]
        sources = [(queue, key) for queue, key in sources if key not in self._delayed]
        while sources:
            calls = [forward_call(queue, key, self.clock) for queue, key in sources]
            answers = await self._run_per_queue([queue for queue, _ in sources], calls)
            for answer in answers:
                await self._quarantine(answer.queue, answer.source, answer.unreadable)
            for answer in answers:
                if answer.next_due is not None and not _more(answer):
                    next_due.append(answer.next_due)
                    if (mark := marks[answer.source]) is not None:
                        self._delayed[answer.source] = mark, answer.next_due
            sources = [(a.queue, a.source) for a in answers if _more(a)]
        return min(next_due, default=None)

    async def silent_leases(
        self, queues: Sequence[str], until: float, go_until: float
    ) -> list[SilentLease]:
        """List the leases that end at or before ``until`` (unix s), the longest silent ones of each queue first.

        They have not been extended for ``LEASE_SECONDS`` less what is left of them. Leases of Go workers, which are
        written by the clocks of their hosts, are listed from ``go_until`` on.
        """
        queues = await self._with(keys.lease, queues)
        calls = [silent_leases_call(queue, until, go_until) for queue in queues]
        pages = await self._run_per_queue(queues, calls)
        return [lease for page in pages for lease in page]

    async def orphans(self, leases: Sequence[SilentLease]) -> list[Orphan]:
        """Read the tasks of leases that nobody holds any more; what cannot be read is set aside."""
        answers = await self._runner.run_all([orphan_call(lease) for lease in leases])
        unreadable: dict[str, list[Unreadable]] = {}
        for lease, answer in zip(leases, answers, strict=True):
            if is_wrong_type(answer):
                answer = Unreadable(lease.id, lease.score, "its key holds the wrong type of value")
            if isinstance(answer, Unreadable):
                unreadable.setdefault(lease.queue, []).append(answer)
            elif isinstance(answer, BrokerError):
                ids = {"queue": lease.queue}
                logger.log(_level(answer), "queue %s: %s", lease.queue, answer, extra=ids)
        for queue, records in unreadable.items():
            await self._quarantine(queue, keys.lease(queue), records)
        return [answer for answer in answers if isinstance(answer, Orphan)]

    async def absent(self, owners: Iterable[str]) -> set[str]:
        """Those servers that have shown no sign of life for longer than their heartbeat lasts."""
        asked = sorted(owners)
        calls = [command("EXISTS", keys.server(owner), read=int) for owner in asked]
        answers = await self._runner.run_all(calls)
        # A refusal is no sign of death.
        return {owner for owner, answer in zip(asked, answers, strict=True) if answer == 0}

    async def delete_expired_completed(self, queues: Sequence[str], limit: int = _PAGE) -> int:
        """Delete completed tasks whose retention ended, ``limit`` of a queue at a time; answers how many."""
        deleted, left = 0, await self._with(keys.completed, queues)
        while left:
            calls = [delete_expired_completed_call(q, self.clock.now(), limit) for q in left]
            answers = await self._runner.run_all(calls)
            counts = {q: n for q, n in zip(left, answers, strict=True) if isinstance(n, int)}
            await self._report(left, answers)
            deleted += sum(counts.values())
            left = [queue for queue, count in counts.items() if count == limit]
        return deleted

    async def write_server_state(
        self, server: ServerInfo, workers: Sequence[WorkerInfo], ttl: int
    ) -> None:
        """Show a server and what it runs, for ``ttl`` s."""
        server_key, workers_key = _presence_keys(server)
        expires_at = int(self.clock.now()) + ttl
        args: list[Word] = [ttl, server.encode()]
        for worker in workers:
            args += (worker.task_id, worker.encode())
        listed = {keys.SERVERS: server_key}
        if workers:  # else there is nothing to be found
            listed[keys.WORKERS] = workers_key
        calls = [
            *(
                script_call("list_presence", [it], [expires_at, listed[it]], nothing)
                for it in listed
            ),
            script_call("write_server_state", [server_key, workers_key], args, nothing),
        ]
        await self._runner.run_each(calls)

    async def clear_server_state(self, server: ServerInfo) -> None:
        """Show a server no longer."""
        server_key, workers_key = _presence_keys(server)
        calls = [
            command("ZREM", keys.SERVERS, server_key, read=nothing),
            command("ZREM", keys.WORKERS, workers_key, read=nothing),
            command("DEL", server_key, workers_key, read=nothing),
        ]
        await self._runner.run_each(calls)

    async def _with(self, key: Callable[[str], str], queues: Sequence[str]) -> list[str]:
        """Those queues of which it is not known that they have no such key."""
        queue_of = _queue_of((key,), tuple(queues))
        absent = await self.key_watch.absent(queue_of)
        return [queue for name, queue in queue_of.items() if name not in absent]

    async def _run_per_queue(self, queues: Sequence[str], calls: Sequence[Call[Any]]) -> list[Any]:
        """Answers of the queues that gave one; the errors of the others are reported, not raised."""
        answers = await self._runner.run_all(calls)
        await self._report(queues, answers)
        return [answer for answer in answers if not isinstance(answer, BrokerError)]

    async def _report(self, queues: Sequence[str], answers: Sequence[Any]) -> None:
        """Log the errors among the answers; a queue may be there more than once."""
        for queue, answer in zip(queues, answers, strict=True):
            if is_wrong_type(answer):
                await self._set_aside_wrong_types(queue)
            elif isinstance(answer, BrokerError):
                logger.log(_level(answer), "queue %s: %s", queue, answer, extra={"queue": queue})

    async def _quarantine(
        self, queue: str, listed_in: str, unreadable: Sequence[Unreadable]
    ) -> None:
        """Set records aside; those that have changed meanwhile are left alone."""
        if not unreadable:
            return
        now = self.clock.now()
        moved = await self._runner.run(quarantine_call(queue, listed_in, unreadable, now))
        for record in unreadable:
            if record.id in moved:
                _log_set_aside(queue, record)

    async def _set_aside_wrong_types(self, queue: str) -> None:
        for name in await self._runner.run(
            set_aside_wrong_types_call(queue, container_types(queue))
        ):
            logger.error(
                "a key of queue %s held the wrong type of value; set it aside as %s%s",
                queue,
                keys.quarantine_prefix(queue),
                name,
                extra={"queue": queue},
            )


def _level(error: BrokerError) -> int:
    """Of a Redis that is away the circuit breaker tells, once."""
    return logging.DEBUG if isinstance(error, BrokerUnavailableError) else logging.ERROR


def _log_set_aside(queue: str, record: Unreadable) -> None:
    name = record.id.decode("utf-8", "replace")
    logger.error(
        "set task %s of queue %s aside in %s%s: %s",
        name,
        queue,
        keys.quarantine_prefix(queue),
        name,
        record.reason,
        extra={"task_id": name, "queue": queue},
    )


def _seconds(answer: Any) -> float:
    """The answer of ``TIME``: seconds and microseconds, as redis-py or Redis gives them."""
    seconds, microseconds = answer
    return int(seconds) + int(microseconds) / 1_000_000


_TIME: Call[float] = command("TIME", read=_seconds)


def _more(page: Forwarded) -> bool:
    """Whether the script stopped at its limit rather than at the last due task."""
    return page.moved + len(page.unreadable) >= MAX_BATCH


def _booleans(codes: list[int]) -> list[bool]:
    return [code == 1 for code in codes]


def _under_way_keys(queue: str) -> list[str]:
    return [it(queue) for it in (keys.active, keys.lease, keys.groups, keys.aggregation_sets)]


_DELAYED = (keys.scheduled, keys.retry)


@lru_cache(maxsize=16)
def _queue_of(
    kinds: tuple[Callable[[str], str], ...], queues: tuple[str, ...]
) -> Mapping[str, str]:
    """The keys of those kinds that the queues have. Kept: services ask for the same again and again."""
    return {key(queue): queue for queue in queues for key in kinds}


def _presence_keys(server: ServerInfo) -> tuple[str, str]:
    return keys.server(server.owner), keys.workers(server.owner)
