"""Stores new tasks: in one pipeline, and those that wait for replicas in pipelines of their own."""

from __future__ import annotations

import asyncio
from asyncio import Semaphore
from collections.abc import Iterator, Sequence
from typing import Any

from asynqpy.broker.batches import by_key, spread
from asynqpy.broker.connection import Connection
from asynqpy.broker.producing import (
    Answered,
    NewTask,
    Registrations,
    early,
    enqueue_batches,
    entrance,
    not_replicated,
    wait_call,
)
from asynqpy.broker.scripts import Call, Runner
from asynqpy.clock import Clock
from asynqpy.errors import AsynqError, BrokerError

#: Seconds that replicas have to confirm, unless somebody says otherwise. A healthy one needs milliseconds.
REPLICATION_TIMEOUT = 1.0

#: Seconds that a slot of a cluster gets to arrive at its new node before the tasks of its queues are refused: about as
#: long as a Redis that is away gets to come back.
_MOVE_PATIENCE = 1.0

#: Most connections that wait for replicas at once, and most of all there are: each is busy for as long as it waits, and
#: what waits for nothing is not to find all of them taken.
_MOST_WAITS, _SHARE = 8, 0.5

#: Seconds that replicas get for the rest of many tasks when they were too late for the ones before.
_NO_PATIENCE = 0.001

#: Most of the time that an answer may take which Redis may spend waiting: later the connection counts as dead.
_PART_OF_TIMEOUT = 0.5


class Producer:
    """The side of the broker on which tasks come in."""

    def __init__(
        self, connection: Connection, runner: Runner, clock: Clock, replication_timeout: float
    ) -> None:
        self._connection = connection
        self._runner = runner
        self._clock = clock
        self._replication_timeout = replication_timeout
        self._registrations = Registrations()
        self._waits = Semaphore(max(1, int(min(_MOST_WAITS, connection.limit * _SHARE))))

    def check_waits(self) -> None:
        """Raises ``ValueError`` where nothing can wait for replicas."""
        if not self._connection.routes_waits:
            raise ValueError(
                "min_replicas cannot go through a RedisCluster client: "
                "make the asynqpy client from a redis-cluster:// URL"
            )

    async def enqueue(
        self, tasks: Sequence[NewTask], answered: Answered | None, parts: int
    ) -> list[AsynqError | None]:
        """As ``Broker.enqueue``."""
        if not any(task.min_replicas for task in tasks):
            return (await self._send(tasks, answered, parts))[0]
        self.check_waits()
        groups = list(self._groups(tasks))
        if len(groups) == 1:
            return await self._store_replicated(tasks, tasks[0].min_replicas)
        return await self._store_apart(tasks, groups, answered, parts)

    def _groups(self, tasks: Sequence[NewTask]) -> Iterator[tuple[int, list[int]]]:
        """Places of the tasks that share a wait; of a cluster, those that surely go to one node."""
        is_cluster = self._connection.cluster is not None

        def group(task: NewTask) -> tuple[Any, ...]:
            apart = is_cluster and task.min_replicas
            return (task.min_replicas, *entrance(task)) if apart else (task.min_replicas,)

        for key, places in by_key(tasks, group, len(tasks)):
            yield key[0], places

    async def _store_apart(
        self,
        tasks: Sequence[NewTask],
        groups: Sequence[tuple[int, list[int]]],
        answered: Answered | None,
        parts: int,
    ) -> list[AsynqError | None]:
        """Each group by itself, at the same time. An error of one is no matter of the others."""
        answers: list[AsynqError | None] = [None] * len(tasks)

        async def store(min_replicas: int, places: list[int]) -> None:
            some = [tasks[place] for place in places]
            outcome: Sequence[AsynqError | None]
            try:
                if min_replicas:
                    outcome = await self._store_replicated(some, min_replicas)
                else:
                    outcome, _ = await self._send(some, None, parts)
            except BrokerError as error:
                outcome = [error] * len(some)
            for place, answer in zip(places, outcome, strict=True):
                answers[place] = answer
            if answered is not None:
                answered(places, outcome)

        await asyncio.gather(*(store(*group) for group in groups))
        return answers

    async def _store_replicated(
        self, tasks: Sequence[NewTask], min_replicas: int
    ) -> list[AsynqError | None]:
        """Those of a pipeline wait together, as long as the last one needs."""
        answers: list[AsynqError | None] = [None] * len(tasks)
        async with self._waits:
            seconds = self._patience()
            for places in self._loads(tasks):
                some = [tasks[place] for place in places]
                outcome, confirmed = await self._send(
                    some, None, 1, wait_call(min_replicas, seconds)
                )
                if isinstance(confirmed, BrokerError) or confirmed < min_replicas:
                    outcome = [
                        not_replicated(task, confirmed, seconds) if answer is None else answer
                        for task, answer in zip(some, outcome, strict=True)
                    ]
                    seconds = _NO_PATIENCE
                for place, answer in zip(places, outcome, strict=True):
                    answers[place] = answer
        return answers

    def _loads(self, tasks: Sequence[NewTask]) -> Sequence[Sequence[int]]:
        """Places of the tasks that share a pipeline: in one no container gets more than one call.

        Where only some calls are sent again, the answer to the wait that follows them says nothing of the others.
        """
        batches = enqueue_batches(tasks, self._clock.now_ns())
        if len(batches) == len({entrance(task) for task in tasks}):
            return [range(len(tasks))]
        return [batch.places for batch in batches]

    def _patience(self) -> float:
        longest = self._connection.socket_timeout
        if longest is None:
            return self._replication_timeout
        return min(self._replication_timeout, longest * _PART_OF_TIMEOUT)

    async def _send(
        self,
        tasks: Sequence[NewTask],
        answered: Answered | None,
        parts: int,
        wait: Call[int] | None = None,
    ) -> tuple[list[AsynqError | None], int | BrokerError]:
        """Store tasks in one pipeline. Answers what became of each, and how many replicas have them, if asked."""
        queues = {task.message.queue for task in tasks}
        if not self._connection.exchange.answers_early:
            parts = 1
        batches = enqueue_batches(tasks, self._clock.now_ns(), parts)
        register = self._registrations.call(queues, self._runner.doubts)
        told = None if answered is None else early(batches, len(register), answered)
        calls: list[Call[Any]] = [*register, *(it.call for it in batches)]
        if wait is not None:
            calls.append(wait)
        answers = await self._runner.run_all(calls, told, patience=_MOVE_PATIENCE)
        confirmed = 0 if wait is None else answers.pop()
        outcome = spread(batches, answers[len(register) :])
        has_stored = None in outcome
        if register:
            self._registrations.note(queues, answers[0], self._runner.doubts, has_stored=has_stored)
        elif late := self._registrations.call(queues, self._runner.doubts):
            # Redis did not know our scripts any more: it may have come back empty.
            answer = await self._answer(late[0])
            self._registrations.note(queues, answer, self._runner.doubts, has_stored=has_stored)
        return outcome, confirmed

    async def _answer(self, call: Call[Any]) -> object:
        try:
            return await self._runner.run(call)
        except BrokerError as error:
            return error
