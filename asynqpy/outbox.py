"""What the coroutines of one turn of the event loop enqueue goes to Redis together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import msgspec

from asynqpy.broker.producing import Answered, NewTask
from asynqpy.errors import BrokerError, BrokerUnavailableError
from asynqpy.random_ids import drop_spare
from asynqpy.unanswered import Unanswered

#: Most bytes of payloads on their way at once for one turn, unless a single one is larger. The rest follows them, in
#: order: what a thousand coroutines send is not to be in memory three times over.
_MAX_BYTES = 16 * 1024 * 1024

#: What became of a task: ``None`` stored, or why not. More than ``AsynqError`` only by a fault of somebody's.
Answer: TypeAlias = Exception | None

#: Fewest tasks that leave in two parts, so that Redis has something to do while the callers of one go on.
_FEWEST_IN_PARTS = 32

#: Most shipments that wait for replicas at once. The next one gathers meanwhile: where replicas are slow, many tasks
#: share a wait, and none waits in line for long.
_MOST_WAITING = 4

#: Parts of a list that leaves by itself. What is still to be read and what is yet to be sent cost the client as much.
_PARTS = 4


class Send(Protocol):
    """``Broker.enqueue``: one pipeline, an answer per task, or a ``BrokerError`` for all not answered yet."""

    def __call__(
        self, tasks: list[NewTask], answered: Answered, parts: int
    ) -> Coroutine[Any, Any, Sequence[Answer]]: ...


class Outbox:
    """Gathers tasks for as long as the turn of the event loop lasts, and sends them in the next.

    It serves the event loop that uses it first. In any other every task is sent by itself.
    """

    def __init__(self, send: Send, unanswered: Unanswered) -> None:
        self._send = send
        self._unanswered = unanswered
        self._loop: asyncio.AbstractEventLoop | None = None
        #: By how many replicas they wait for: those that wait for none are not to wait for the others.
        self._loading: dict[int, _Shipment] = {}
        self._under_way = 0
        self._waits = asyncio.Semaphore(_MOST_WAITING)

    async def put(self, task: NewTask, *, in_doubt: bool = False) -> Answer:
        """Send a task with those of the same turn, in the order of the calls. Answers what became of this one.

        A caller that is cancelled takes its task out again; if it is on its way already, it goes on for the others',
        and is noted as unanswered. ``in_doubt``: it takes up an attempt that may have been stored.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop and not self._serves(loop):
            return (await self.put_all([task]))[0]
        shipment = self._loading.get(task.min_replicas)
        if shipment is None:
            shipment = self._new_shipment(loop, task.min_replicas)
        parcel = _Parcel(task, loop.create_future(), in_doubt)
        shipment.parcels.append(parcel)
        try:
            return await parcel.answer
        except asyncio.CancelledError:
            self._forsake(parcel)
            raise

    async def put_all(self, tasks: list[NewTask]) -> Sequence[Answer]:
        """Send tasks at once, by themselves. Answers what became of each."""
        drop_spare()
        known: dict[int, Answer] = {}
        answers: Sequence[Answer]
        try:
            answers = await self._send(tasks, partial(_note_known, known), _PARTS)
        except BrokerError as error:
            answers = [known.get(place, error) for place in range(len(tasks))]
        except asyncio.CancelledError:
            for task in tasks:
                self._note_lost(task)
            raise
        self._note_all(tasks, answers)
        return answers

    def _note_all(self, tasks: Sequence[NewTask], answers: Sequence[Answer]) -> None:
        if self._unanswered or any(answers):
            for task, answer in zip(tasks, answers, strict=True):
                self._unanswered.note(task, answer)

    def _serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the outbox is this loop's, now that it asks."""
        if self._loop is not None and not self._loop.is_closed():
            return False
        self._loop, self._loading = loop, {}
        self._waits = asyncio.Semaphore(_MOST_WAITING)
        return True

    def _new_shipment(self, loop: asyncio.AbstractEventLoop, min_replicas: int) -> _Shipment:
        shipment = self._loading[min_replicas] = _Shipment(min_replicas)
        # Not by ``create_task``: where tasks start eagerly, it would leave with the first parcel.
        carrier = asyncio.Task(self._carry(shipment), loop=loop, name="asynqpy:enqueue")
        carrier.add_done_callback(partial(self._arrived, shipment))
        shipment.carrier = carrier
        return shipment

    async def _carry(self, shipment: _Shipment) -> None:
        if shipment.min_replicas:
            async with self._waits:
                await self._carry_loads(shipment)
            return
        self._under_way += 1
        try:
            await self._carry_loads(shipment)
        finally:
            self._under_way -= 1

    async def _carry_loads(self, shipment: _Shipment) -> None:
        del self._loading[shipment.min_replicas]
        drop_spare()
        shipment.leave()
        for load in _loads(shipment.parcels):
            await self._carry_load(load)

    def _arrived(self, shipment: _Shipment, carrier: asyncio.Task[None]) -> None:
        """Whatever the carrier has met, nobody may be left waiting."""
        if self._loading.get(shipment.min_replicas) is shipment:
            del self._loading[shipment.min_replicas]  # it was cancelled before it left
        failure = None if carrier.cancelled() else carrier.exception()
        if not isinstance(failure, Exception):
            failure = BrokerUnavailableError("cancelled on the way to Redis")
        self._hand_over(shipment.parcels, [failure] * len(shipment.parcels))
        shipment.parcels = []

    async def _carry_load(self, load: list[_Parcel]) -> None:
        parcels = [parcel for parcel in load if not parcel.answer.done()]
        if not parcels:
            return
        for parcel in parcels:
            parcel.in_doubt = True
        answers: Sequence[Answer]
        try:
            answers = await self._send(
                [parcel.task for parcel in parcels],
                partial(self._hand_over_some, parcels),
                self._parts(len(parcels)),
            )
        except BrokerUnavailableError:
            raise  # Redis is away: the next load is not tried
        except Exception as error:
            answers = [error] * len(parcels)
        self._hand_over(parcels, answers)

    def _parts(self, count: int) -> int:
        """More than one unless Redis has another shipment to work on, while this process sees to its callers."""
        return 2 if count >= _FEWEST_IN_PARTS and self._under_way == 1 else 1

    def _hand_over_some(
        self, parcels: list[_Parcel], places: Sequence[int], answers: Sequence[Answer]
    ) -> None:
        self._hand_over([parcels[place] for place in places], answers)

    def _hand_over(self, parcels: list[_Parcel], answers: Sequence[Answer]) -> None:
        notes = bool(self._unanswered) or any(answers)
        for parcel, answer in zip(parcels, answers, strict=True):
            if not parcel.answer.done():
                if notes and parcel.in_doubt:
                    self._unanswered.note(parcel.task, answer)
                parcel.answer.set_result(answer)
                if parcel.shipment is not None:
                    parcel.shipment.expected -= 1

    def _forsake(self, parcel: _Parcel) -> None:
        """Its caller was cancelled."""
        if parcel.in_doubt:
            self._note_lost(parcel.task)
        if parcel.shipment is not None and parcel.answer.cancelled():
            parcel.shipment.forsake()

    def _note_lost(self, task: NewTask) -> None:
        self._unanswered.note(task, BrokerUnavailableError("cancelled"))


class _Parcel(msgspec.Struct, eq=False):
    """A task whose caller waits. ``in_doubt``: it may be in Redis. ``shipment``: the one it left with."""

    task: NewTask
    answer: asyncio.Future[Answer]
    in_doubt: bool
    shipment: _Shipment | None = None


class _Shipment:
    """What is gathered in one turn, or for longer where replicas keep those before it waiting.

    ``expected``: how many callers wait for it, once it has left.
    """

    __slots__ = ("carrier", "expected", "min_replicas", "parcels")

    def __init__(self, min_replicas: int) -> None:
        self.min_replicas = min_replicas
        self.parcels: list[_Parcel] = []
        self.expected = 0
        self.carrier: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """With those whose callers still wait."""
        self.parcels = [parcel for parcel in self.parcels if not parcel.answer.done()]
        self.expected = len(self.parcels)
        for parcel in self.parcels:
            parcel.shipment = self

    def forsake(self) -> None:
        """One caller less; the last one takes the carrier with it."""
        self.expected -= 1
        if self.expected == 0 and self.carrier is not None:
            self.carrier.cancel()


def _note_known(known: dict[int, Answer], places: Sequence[int], answers: Sequence[Answer]) -> None:
    known.update(zip(places, answers, strict=True))


def _loads(parcels: list[_Parcel]) -> Iterator[list[_Parcel]]:
    """Consecutive runs of at most ``_MAX_BYTES``; a larger parcel goes alone."""
    start, size = 0, 0
    for place, parcel in enumerate(parcels):
        size += len(parcel.task.message.payload)
        if size > _MAX_BYTES and place > start:
            yield parcels[start:place]
            start, size = place, len(parcel.task.message.payload)
    if parcels:
        yield parcels[start:]
