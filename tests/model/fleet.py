"""What asynqpy's clients, workers and recoverers do, one call at a time, and what is checked after each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from asynqpy.broker.messages import TaskMessage
from asynqpy.broker.outcomes import (
    Archive,
    Done,
    Orphan,
    Outcome,
    Requeue,
    Retry,
    Settlement,
    SilentLease,
)
from asynqpy.broker.producing import NewTask
from asynqpy.broker.scripts import Call
from asynqpy.errors import AsynqError, BrokerError, BrokerUnavailableError
from tests.model.ledger import Ledger
from tests.model.line import Fate, FatefulBroker
from tests.model.queue_state import QUEUE, look
from tests.model.reference import Reference
from tests.model.world import Worker, World

T = TypeVar("T")


def _anything() -> None:
    """For a call that may touch every task."""


def _plain(answer: object) -> object:
    """An answer to be compared. Newer engines spell the exact score of a lease with an exponent."""
    if not isinstance(answer, list):
        return answer
    return [
        replace(it, score=repr(it.expires_at)) if isinstance(it, SilentLease) else it
        for it in answer
    ]


@dataclass
class Late:
    """What is under way to Redis although its sender has given up."""

    broker: FatefulBroker
    calls: Sequence[Call[Any]]
    permit: Callable[[], None]
    predict: Callable[[], object]


class Fleet(RuleBasedStateMachine):
    """Each call is made twice, in Redis and by the reference, and must have the same answer and effect.

    That is said of sound queues. Machines with others on the same queue, who may break it, learn after each step
    whether it still is ``sound``.
    """

    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.redis_url)
        self.reference = Reference()
        self.ledger = Ledger()
        self.late: list[Late] = []
        #: Before the step; and whether the reference knows its effect, and whether it is not asynqpy's.
        self.sound = True
        self.predicted = True
        self.is_foreign = False

    def teardown(self) -> None:
        self.world.close()

    @property
    def now(self) -> float:
        return self.world.clock.now()

    # How a call is made.

    def call(
        self,
        broker: FatefulBroker,
        fate: Fate,
        call: Callable[[], Coroutine[Any, Any, T]],
        predict: Callable[[], T],
        permit: Callable[[], None] = _anything,
    ) -> tuple[T] | None:
        """Make a call of one round trip; its answer in a tuple, or ``None``.

        ``permit`` tells the ledger what the call may do in the state that Redis is in when it arrives.
        """
        if fate in (Fate.ANSWERED, Fate.ANSWER_LOST):
            permit()
        answer = self._attempt(broker, fate, call)
        if fate is Fate.LATE:
            self.late.append(Late(broker, broker.line.take_late(), permit, predict))
        elif fate is not Fate.UNSENT and self.sound:
            predicted = predict()
            is_right = answer is None or _plain(answer[0]) == _plain(predicted)
            assert is_right, f"answered {answer}, not {predicted}"
        return answer

    def _attempt(
        self, broker: FatefulBroker, fate: Fate, call: Callable[[], Coroutine[Any, Any, T]]
    ) -> tuple[T] | None:
        broker.line.meet(fate)
        try:
            return (self.world.run(call()),)
        except BrokerUnavailableError:
            assert fate is not Fate.ANSWERED
            return None
        finally:
            broker.line.meet(Fate.ANSWERED)

    def arrive(self, late: Late) -> None:
        """Redis gets to see what was sent long ago."""
        late.permit()
        self.world.run(late.broker.line.arrive(late.calls))
        if self.sound:
            late.predict()

    # What takes more than a line.

    def enqueue(self, tasks: list[NewTask], fate: Fate) -> None:
        client = self.world.client

        async def enqueue() -> list[type[AsynqError] | None]:
            answers = await client.enqueue(tasks)
            return [None if answer is None else type(answer) for answer in answers]

        def permit() -> None:
            for task in tasks:
                self.ledger.may_store(task.message)

        answer = self.call(client, fate, enqueue, lambda: self.reference.enqueue(tasks), permit)
        if answer is None:
            self.world.unanswered.append(tasks)
            return
        for task, error in zip(tasks, answer[0], strict=True):
            if error is None:
                self.ledger.acknowledged(task.message)

    def turn(self, worker: Worker, offers: list[Settlement], limit: int, fate: Fate) -> None:
        """Settle and take, in one round trip. What has no answer is kept."""
        wanted, now = {QUEUE: limit} if limit else {}, self.now
        grants = worker.broker.grant(wanted)
        taken: list[TaskMessage] = []

        async def turn() -> tuple[Sequence[bool | BrokerError], list[str]]:
            turn = await worker.broker.turn(offers, wanted, grants)
            assert not turn.errors
            worker.held += turn.deliveries
            taken.extend(each.message for each in turn.deliveries)
            return turn.settled, [message.id for message in taken]

        def predict() -> tuple[Sequence[bool | BrokerError], list[str]]:
            settled = self.reference.settle(offers, now)
            return settled, [i for grant in grants for i in self.reference.dequeue(grant, limit)]

        answer = self.call(
            worker.broker, fate, turn, predict, lambda: self.permit(offers, wants=limit)
        )
        if answer is None:
            worker.unsettled += offers
            worker.grants += grants
            return
        self.book(offers, answer[0][0])
        for message in taken:
            self.ledger.delivered(message)

    def permit(self, offers: Sequence[Settlement], *, wants: int = 0) -> None:
        """Whose fence opens may change the task, and nobody else; what is pending may be taken if it is wanted."""
        held = [each for each in offers if self.reference.holds(each.message.id, each.fence)]
        self.ledger.may_touch(*(each.message.id for each in held))
        if wants:
            self.ledger.may_touch(*self.reference.queue.pending)
        for settlement in held:
            # A holder writes its task anew, should the hash have vanished meanwhile.
            self.ledger.may_store(settlement.message)
            if isinstance(settlement.outcome, Done):
                self.ledger.may_drop(settlement.message.id)

    def book(self, offers: Sequence[Settlement], answers: Sequence[bool | BrokerError]) -> None:
        for settlement, answer in zip(offers, answers, strict=True):
            if answer is True:
                self.ledger.settled(settlement.message, settlement.outcome)

    # After each step.

    @invariant()
    def check(self) -> None:
        seen = self.world.run(look(self.world.redis))
        problems = list(self.ledger.problems(seen.queue, seen.set_aside))
        if self.sound and not self.is_foreign:
            problems += seen.breaches
        if self.sound and self.predicted:
            self.reference.queue.active.sort()
            problems += self.reference.queue.differences(seen.queue)
        assert not problems, problems
        self.sound, self.predicted, self.is_foreign = not seen.breaches, True, False
        self.reference.queue = copy.deepcopy(seen.queue)


def recovery(orphan: Orphan, now: float) -> Settlement:
    """The first crash puts the task back, the second lets it wait, the third ends it."""
    crashes = orphan.lease.crashes + 1
    outcomes: list[Outcome] = [
        Requeue(crashes=1),
        Retry(now + 10, "crashed", counted=False, crashes=2),
        Archive("poison pill"),
    ]
    return Settlement(orphan.message, orphan.lease.score, outcomes[min(crashes, 3) - 1], now)
