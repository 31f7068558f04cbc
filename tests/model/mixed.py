"""A fleet that Go's workers share, with damage of other kinds besides: unsound now and then, but the reconciler heals
it, and nothing that was acknowledged is lost on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from asynqpy.broker.messages import TaskMessage, TaskState
from tests import redis_state as state
from tests.model import go_like
from tests.model.machine import AsynqpyFleet
from tests.model.people import IDS, KINDS, LOCKS, WHICH
from tests.model.queue_state import QUEUE

SETTLEMENTS = st.sampled_from(["done", "completed", "retry", "archived", "requeue"])


@dataclass
class GoWorker:
    """What it runs, and what its recoverer has listed."""

    held: list[TaskMessage] = field(default_factory=list)
    listed: list[TaskMessage] = field(default_factory=list)


class MixedFleet(AsynqpyFleet):
    """While the queue is sound, asynqpy's calls must do exactly what they are to do; when it is not, no harm at least.

    What a call of Go's does nobody judges, beyond that tasks it may not have finished must still be there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.go_workers = [GoWorker(), GoWorker()]

    def foreign(self) -> None:
        """The step is not asynqpy's: the queue may be unsound after it."""
        self.is_foreign, self.predicted = True, False

    def people_act(self) -> None:
        """Theirs is Go's way of deleting: it knows no locks of tasks in groups."""
        self.foreign()

    @rule(task_id=IDS, kind=KINDS, lock=st.sampled_from(["", *LOCKS]))
    def go_enqueues(self, task_id: str, kind: TaskState, lock: str) -> None:
        task = self.new_task(task_id, kind, lock, 0)
        self.foreign()
        self.ledger.may_store(task.message)
        if self.world.run(go_like.enqueue(self.world.redis, task)):
            self.ledger.acknowledged(task.message)

    @rule(which=WHICH)
    def go_dequeues(self, which: int) -> None:
        self.foreign()
        message = self.world.run(go_like.dequeue(self.world.redis, self.now))
        if message is not None:
            self.go_workers[which].held.append(message)
            self.ledger.delivered(message)

    @precondition(lambda self: any(worker.held for worker in self.go_workers))
    @rule(which=WHICH, what=SETTLEMENTS)
    def go_settles(self, which: int, what: str) -> None:
        """Whether or not it still has the lease: it may have stood still since it looked."""
        if self.go_workers[which].held:
            self.go_settles_one(self.go_workers[which].held.pop(0), what)

    def go_settles_one(self, message: TaskMessage, what: str) -> None:
        self.foreign()
        if what == "done":
            self.ledger.may_drop(message.id)
        self.world.run(go_like.settle(self.world.redis, what, message, self.now))

    @precondition(lambda self: any(worker.held for worker in self.go_workers))
    @rule(which=WHICH)
    def go_extends(self, which: int) -> None:
        self.foreign()
        ids = [message.id for message in self.go_workers[which].held]
        self.world.run(go_like.extend(self.world.redis, ids, self.now))

    @precondition(lambda self: any(worker.held for worker in self.go_workers))
    @rule(which=WHICH)
    def go_writes_a_result(self, which: int) -> None:
        self.foreign()
        for message in self.go_workers[which].held[:1]:
            self.ledger.may_store(TaskMessage(type="none", id=message.id))
            self.world.run(go_like.write_result(self.world.redis, message.id, b"42"))

    @rule(which=WHICH)
    def go_crashes(self, which: int) -> None:
        self.go_workers[which] = GoWorker()

    @rule()
    def go_forwards(self) -> None:
        self.foreign()
        self.world.run(go_like.forward(self.world.redis, self.now))

    @rule(which=WHICH)
    def go_lists_expired_leases(self, which: int) -> None:
        self.go_workers[which].listed = self.world.run(
            go_like.list_expired(self.world.redis, self.now)
        )

    @precondition(lambda self: any(worker.listed for worker in self.go_workers))
    @rule(which=WHICH, what=st.sampled_from(["retry", "archived"]))
    def go_recovers(self, which: int, what: str) -> None:
        """By the copy that it has, whoever holds the task by now."""
        if self.go_workers[which].listed:
            self.go_settles_one(self.go_workers[which].listed.pop(0), what)

    # Damage that has been seen in the field and that nobody admits to.

    @rule(task_id=IDS, where=st.sampled_from(["lease", "active", "pending", "retry", "g:g"]))
    def an_entry_vanishes(self, task_id: str, where: str) -> None:
        self.foreign()
        command = ("LREM", 0) if where in state.LISTS else ("ZREM",)
        self.world.run(
            state.ask(self.world.redis, command[0], state.key(QUEUE, where), *command[1:], task_id)
        )

    @precondition(lambda self: self.reference.queue.pending)
    @rule()
    def an_entry_is_doubled(self) -> None:
        self.foreign()
        task_id = self.reference.queue.pending[0]
        self.world.run(state.ask(self.world.redis, "LPUSH", state.key(QUEUE, "pending"), task_id))

    @rule()
    def groups_vanish(self) -> None:
        self.foreign()
        self.world.run(state.ask(self.world.redis, "DEL", state.key(QUEUE, "groups")))

    @rule(task_id=IDS)
    def a_hash_vanishes(self, task_id: str) -> None:
        """By eviction, or by hand: that task is lost, but it must do no harm."""
        self.foreign()
        self.ledger.may_drop(task_id)
        self.world.run(state.ask(self.world.redis, "DEL", state.task_key(QUEUE, task_id)))

    # And its repair.

    @rule()
    def the_reconciler_heals(self) -> None:
        """One search must do, if nobody comes in between, and once the leases are over: it spares what may be held."""
        self.predicted = False
        self.world.clock.advance(100)
        self.world.run(self.world.search(heal=True))
        self.sound = True
