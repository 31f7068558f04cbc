"""The rules of workers, which may crash at any time: whoever starts anew knows nothing."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from asynqpy.broker.messages import TaskState
from asynqpy.broker.outcomes import (
    Archive,
    Complete,
    Delivery,
    Done,
    Outcome,
    Requeue,
    Retry,
    Settlement,
)
from tests.model.line import Fate
from tests.model.people import FATES, WHICH, SteeredFleet
from tests.model.world import Worker

OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [
        Done(),
        Complete(),
        Retry(2_000_000_010.0, "no"),
        Retry(2_000_000_040.5, "no", counted=False),
        Archive("no"),
        Requeue(),
    ]
)


class WorkingFleet(SteeredFleet):
    """Two workers on a queue, which know and believe different things."""

    @rule(which=WHICH, limit=st.integers(1, 3), fate=FATES)
    def a_worker_takes_tasks(self, which: int, limit: int, fate: Fate) -> None:
        self.supply()
        self.turn(self.world.workers[which], [], limit, fate)

    @rule(which=WHICH, outcome=OUTCOMES, fate=FATES)
    def a_worker_settles_a_task(self, which: int, outcome: Outcome, fate: Fate) -> None:
        """Whether or not it still has the lease."""
        worker = self.one_who_holds(which)
        offers = [self.settlement(each, outcome) for each in worker.held[:1]]
        del worker.held[:1]
        self.turn(worker, offers, 0, fate)

    @rule(which=WHICH, outcomes=st.lists(OUTCOMES, max_size=2), limit=st.integers(0, 2), fate=FATES)
    def a_worker_takes_a_turn(
        self, which: int, outcomes: list[Outcome], limit: int, fate: Fate
    ) -> None:
        """Settle what has ended, offer once more what was not answered, and take new tasks."""
        worker = self.world.workers[which]
        ended = [worker.held.pop(0) for _ in outcomes[: len(worker.held)]]
        offers = [self.settlement(each, how) for each, how in zip(ended, outcomes, strict=False)]
        offers, worker.unsettled = offers + worker.unsettled, []
        if offers or limit:
            self.turn(worker, offers, limit, fate)

    # Most histories would be idle if chance alone had to provide what a rule is about.

    def supply(self) -> None:
        """See that something is pending."""
        queue = self.reference.queue
        if queue.paused:
            self.somebody_pauses_or_resumes(False)
            self.check()
        if not queue.pending:
            free = [i for i in "abcd" if i not in queue.records or i not in queue.active]
            if free and free[0] in queue.records:
                self.somebody_steers("run", free[0])
            elif free:
                self.enqueue([self.new_task(free[0], TaskState.PENDING, "", 0)], Fate.ANSWERED)
            self.check()

    def one_who_holds(self, which: int) -> Worker:
        """A worker with tasks, if there can be one."""
        if not any(worker.held for worker in self.world.workers):
            self.a_worker_takes_tasks(which, 2, Fate.ANSWERED)
            self.check()
        workers = [worker for worker in self.world.workers if worker.held] or self.world.workers
        return workers[which % len(workers)]

    def one_who_lost_an_answer(self, which: int) -> Worker:
        """A worker that does not know what it was given."""
        if not any(worker.grants for worker in self.world.workers):
            self.a_worker_takes_tasks(which, 2, Fate.ANSWER_LOST)
            self.check()
        workers = [worker for worker in self.world.workers if worker.grants]
        return workers[which % len(workers)]

    def settlement(self, delivery: Delivery, outcome: Outcome) -> Settlement:
        return Settlement(delivery.message, delivery.lease.fence, outcome, self.now)

    @rule(which=WHICH, fate=FATES)
    def a_worker_extends_its_leases(self, which: int, fate: Fate) -> None:
        self.extend(self.one_who_holds(which), fate)

    def extend(self, worker: Worker, fate: Fate) -> None:
        now = self.now
        leases = [delivery.lease for delivery in worker.held]

        async def extend() -> list[str]:
            return [lease.id for lease in await worker.broker.extend_lease(leases)]

        def predict() -> list[str]:
            return [lease.id for lease in leases if not self.reference.extend(lease, now)]

        def permit() -> None:
            held = [lease.id for lease in leases if self.reference.holds(lease.id, lease.fence)]
            self.ledger.may_touch(*held)

        self.call(worker.broker, fate, extend, predict, permit)

    @rule(which=WHICH, fate=FATES)
    def a_worker_extends_what_it_may_have_been_given(self, which: int, fate: Fate) -> None:
        self.extend_grants(self.one_who_lost_an_answer(which), fate)

    def extend_grants(self, worker: Worker, fate: Fate) -> None:
        now = self.now
        grants = list(worker.grants)

        def predict() -> None:
            for grant in grants:
                self.reference.extend_grant(grant, now)

        self.call(worker.broker, fate, lambda: worker.broker.extend_grants(grants), predict)

    @rule(which=WHICH, beats=st.integers(0, 2), forgets=st.booleans(), fate=FATES)
    def a_worker_puts_back_what_it_may_have_been_given(
        self, which: int, beats: int, forgets: bool, fate: Fate
    ) -> None:
        """It tries again after an answer too: the dequeue itself may be late. Its heart has beaten meanwhile."""
        worker = self.one_who_lost_an_answer(which)
        for n in range(beats):
            self.world.clock.advance(5)
            self.extend_grants(worker, Fate.ANSWER_LOST if n else Fate.ANSWERED)
            self.check()
        grants = list(worker.grants)

        def predict() -> int:
            return sum([self.reference.requeue_grant(grant) for grant in grants])

        answer = self.call(
            worker.broker, fate, lambda: worker.broker.requeue_grants(grants), predict
        )
        if answer is not None and forgets:
            worker.grants = []

    @rule(which=WHICH, place=st.integers(0, 3), fate=FATES)
    def a_handler_writes_a_result(self, which: int, place: int, fate: Fate) -> None:
        self.write_result(self.one_who_holds(which), place, fate)

    def write_result(self, worker: Worker, place: int, fate: Fate) -> None:
        if not worker.held:
            return
        lease = worker.held[place % len(worker.held)].lease
        data = str(self.world.next_number()).encode()

        def permit() -> None:
            self.ledger.may_touch(*[lease.id] * self.reference.holds(lease.id, lease.fence))

        self.call(
            worker.broker,
            fate,
            lambda: worker.broker.write_result(lease, data),
            lambda: self.reference.write_result(lease, data),
            permit,
        )

    @rule(which=WHICH)
    def a_worker_crashes(self, which: int) -> None:
        self.world.crash(which)

    @rule(which=WHICH, shows=st.booleans())
    def presence(self, which: int, shows: bool) -> None:
        """A beat comes, or fails to come until the presence is over; the worker may live on in either case."""
        owner = self.world.workers[which].owner
        if shows:
            self.world.show(owner)
        else:
            self.world.hide(owner)
