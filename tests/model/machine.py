"""The rules of a whole fleet of asynqpy: recoverers step by step and as they are, forwarder, janitor and reconciler."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from asynqpy.broker.outcomes import Outcome, Retry
from asynqpy.errors import BrokerError, BrokerUnavailableError
from tests.model.fleet import recovery
from tests.model.line import Fate
from tests.model.people import FATES, WHICH
from tests.model.queue_state import QUEUE, QueueState, Record, look
from tests.model.workers import OUTCOMES, WorkingFleet


class AsynqpyFleet(WorkingFleet):
    """Nobody but asynqpy, and people, use the queue: it must be sound after each step."""

    # Recoverers, between each two of whose calls everything may happen.

    @rule(which=WHICH, quiet=st.sampled_from([-30, 7, 40]), fate=FATES)
    def a_recoverer_looks(self, which: int, quiet: int, fate: Fate) -> None:
        """For leases that nobody extended for so many s; one that waits for nothing sees them all."""
        until, go_until = self.now + 30 - quiet, self.now - quiet + 10
        client = self.world.client
        answer = self.call(
            client,
            fate,
            lambda: client.silent_leases([QUEUE], until, go_until),
            lambda: self.reference.silent(until, go_until),
            self.ledger.may_touch,
        )
        if answer is not None:
            self.world.recoverers[which].seen = answer[0]

    @precondition(lambda self: any(each.seen for each in self.world.recoverers))
    @rule(which=WHICH, asks=st.booleans(), fate=FATES)
    def a_recoverer_reads(self, which: int, asks: bool, fate: Fate) -> None:
        """The tasks of what was seen, however long ago; ``asks`` keeps to those whose owner is absent."""
        recoverer, client = self.world.recoverers[which], self.world.client
        seen = recoverer.seen
        if asks:
            absent = self.world.run(client.absent({each.owner for each in seen}))
            seen = [each for each in seen if each.owner in absent]
        answer = self.call(
            client,
            fate,
            lambda: client.orphans(seen),
            lambda: self.reference.orphans(seen),
            self.ledger.may_touch,
        )
        if answer is not None:
            recoverer.orphans = answer[0]

    @precondition(lambda self: any(each.orphans for each in self.world.recoverers))
    @rule(which=WHICH, fate=FATES)
    def a_recoverer_acts(self, which: int, fate: Fate) -> None:
        """On what was read, however long ago."""
        client, now = self.world.client, self.now
        offers = [recovery(each, now) for each in self.world.recoverers[which].orphans]

        def predict() -> list[bool | BrokerError]:
            return list(self.reference.settle(offers, now))

        answer = self.call(
            client, fate, lambda: client.settle(offers), predict, lambda: self.permit(offers)
        )
        if answer is not None:
            self.book(offers, answer[0])

    @rule(which=WHICH, taken_again=st.booleans())
    def a_hasty_recoverer_gives_all_away(self, which: int, taken_again: bool) -> None:
        """It waits for nothing: those who hold the tasks live on, and do not know."""
        holder = self.one_who_holds(which)
        self.a_recoverer_looks(which, -30, Fate.ANSWERED)
        self.a_recoverer_reads(which, False, Fate.ANSWERED)
        self.a_recoverer_acts(which, Fate.ANSWERED)
        self.check()
        if taken_again:
            other = self.world.workers[self.world.workers[0] is holder]
            self.turn(other, [], 3, Fate.ANSWERED)

    @rule(which=WHICH, how=st.one_of(OUTCOMES, st.sampled_from(["extends", "writes"])), fate=FATES)
    def a_worker_goes_on_with_what_was_given_away(
        self, which: int, how: Outcome | str, fate: Fate
    ) -> None:
        holder = self.one_who_holds(which)
        self.a_hasty_recoverer_gives_all_away(which, True)
        self.check()
        if how == "extends":
            self.extend(holder, fate)
        elif how == "writes":
            self.write_result(holder, 0, fate)
        elif not isinstance(how, str):
            self.turn(holder, [self.settlement(each, how) for each in holder.held], 0, fate)

    @rule(which=WHICH, how=OUTCOMES)
    def a_task_given_away_ends_elsewhere(self, which: int, how: Outcome) -> None:
        """What was noted of its crash must not outlive an attempt that ended."""
        holder = self.one_who_holds(which)
        self.a_hasty_recoverer_gives_all_away(which, True)
        self.check()
        other = self.world.workers[self.world.workers[0] is holder]
        offers, other.held = [self.settlement(each, how) for each in other.held], []
        self.turn(other, offers, 0, Fate.ANSWERED)

    @rule(which=WHICH)
    def a_task_leaves_its_group_and_comes_back(self, which: int) -> None:
        """Somebody runs it by itself; it fails, and is due again later."""
        for task_id in [i for members in self.reference.queue.groups.values() for i in members]:
            self.somebody_steers("run", task_id)
            self.check()
        self.a_worker_settles_a_task(which, Retry(2_000_000_010.0, "no"), Fate.ANSWERED)
        self.check()
        self.a_forwarder_ticks(60, Fate.ANSWERED)

    @rule(trips=st.integers(0, 4), fate=FATES)
    def the_recoverer_ticks(self, trips: int, fate: Fate) -> None:
        """The service as it is; its connection fails after so many round trips."""
        before = self.reference.queue
        self.ledger.may_touch(*(i for i in before.leases if self.is_orphaned(before, i)))
        self.world.client.line.meet(Fate.ANSWER_LOST if fate is Fate.LATE else fate, trips)
        try:
            self.world.run(self.world.recoverer.tick())
        except BrokerUnavailableError:
            pass
        finally:
            self.world.client.line.meet(Fate.ANSWERED)
        self.predicted = False
        if self.sound:
            self.judge_recovery(before)

    def judge_recovery(self, before: QueueState) -> None:
        """No retry is burned: the first crash puts a task back, the second lets it wait, the third ends it.

        Or lets it wait once more, where another task has seen as many workers die.
        """
        after = self.world.run(look(self.world.redis)).queue
        for task_id in before.leases.keys() - after.leases.keys():
            was, now = before.records[task_id], after.records[task_id]
            crashes = was.crashes + 1
            expected = [[("pending", 1)], [("retry", 2)], [("archived", 0), ("retry", crashes)]]
            allowed = expected[min(crashes, 3) - 1]
            if self.is_let_go(was, before.leases[task_id]):
                allowed = [("pending", was.crashes)]
            assert (now.state, now.crashes) in allowed, (was, now)
            assert was.message is not None
            assert now.message is not None
            assert now.message.retried == was.message.retried

    def is_let_go(self, record: Record, score: float) -> bool:
        """Whether the server that had the task lives: then nobody died."""
        return bool(score % 1 and record.owner) and self.world.is_present(record.owner)

    @rule(which=WHICH)
    def nobody_extends_a_lease_for_a_while(self, which: int) -> None:
        """As long as a server shows itself, the recoverer leaves what it holds alone until that is over."""
        holder = self.one_who_holds(which)
        self.world.show(holder.owner)
        self.extend(holder, Fate.ANSWERED)
        self.check()
        self.watch(8)

    def watch(self, looks: int) -> None:
        """Let the recoverer look so many times, 3 s apart."""
        for n in range(looks):
            self.world.clock.advance(3 if n else 0)
            self.the_recoverer_ticks(0, Fate.ANSWERED)
            self.check()

    @precondition(lambda self: self.reference.queue.leases)
    @rule()
    def all_workers_die(self) -> None:
        """Within 15 s all that they ran is somewhere else, but for what may be a poison pill: that takes 6 s more."""
        self.world.hide_everybody()
        for which in range(len(self.world.workers)):
            self.world.crash(which, shows=False)
        self.watch(6)
        queue = self.reference.queue
        owners = {task_id: record.owner for task_id, record in queue.records.items()}
        owners |= {i: "" for i, record in queue.records.items() if record.crashes > 1}
        left = [i for i, score in queue.leases.items() if score % 1 and owners.get(i)]
        assert not left, f"{left} are stuck"

    def is_orphaned(self, queue: QueueState, task_id: str) -> bool:
        """Whether a recoverer may take the task: nobody shows any sign that it is held."""
        left = queue.leases[task_id] - self.now
        if queue.leases[task_id].is_integer():
            return left <= -30
        record = queue.records.get(task_id)
        return left <= -10 or (
            left <= 20 and (record is None or not self.world.is_present(record.owner))
        )

    # Maintenance.

    @rule(later=st.sampled_from([0, 60]), fate=FATES)
    def a_forwarder_ticks(self, later: int, fate: Fate) -> None:
        self.world.clock.advance(later)
        client, now = self.world.client, self.now

        async def forward() -> None:
            await client.forward([QUEUE])

        self.call(client, fate, forward, lambda: self.reference.forward(now))

    @rule(later=st.sampled_from([0, 60]), fate=FATES)
    def a_janitor_ticks(self, later: int, fate: Fate) -> None:
        self.world.clock.advance(later)
        client, now = self.world.client, self.now

        def permit() -> None:
            for task_id, score in self.reference.queue.sets["completed"].items():
                if score <= now:
                    self.ledger.may_drop(task_id)

        self.call(
            client,
            fate,
            lambda: client.delete_expired_completed([QUEUE]),
            lambda: self.reference.delete_expired(now),
            permit,
        )

    @rule(steps=st.integers(1, 6))
    def the_reconciler_looks(self, steps: int) -> None:
        """Between its steps everything may happen; of a sound queue it has nothing to tell."""
        if self.sound:
            self.ledger.may_touch()
        findings = self.world.run(self.world.search_on(steps))
        assert not (findings and self.sound), findings
        self.predicted = self.sound
