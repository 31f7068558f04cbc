"""The rules of those around a fleet: clients that enqueue, people who steer, time and the network."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from asynqpy.broker.messages import TaskMessage, TaskState
from asynqpy.broker.producing import NewTask
from tests import redis_state as state
from tests.model import inspector
from tests.model.fleet import Fleet
from tests.model.line import Fate
from tests.model.queue_state import QUEUE

LOCKS = [f"asynq:{{{QUEUE}}}:unique:job:{name}" for name in "xy"]

IDS = st.sampled_from(["a", "b", "c", "d"])
FATES = st.sampled_from([Fate.ANSWERED] * 5 + [Fate.ANSWER_LOST] * 2 + [Fate.UNSENT, Fate.LATE])
WHICH = st.integers(0, 1)
KINDS = st.sampled_from([TaskState.PENDING] * 2 + [TaskState.SCHEDULED, TaskState.AGGREGATING])


class SteeredFleet(Fleet):
    """A queue that is filled and steered; nobody works."""

    # Clients.

    @initialize(tasks=st.lists(st.tuples(IDS, KINDS), min_size=1, max_size=4))
    def begin(self, tasks: list[tuple[str, TaskState]]) -> None:
        for task_id, kind in tasks:
            self.enqueue([self.new_task(task_id, kind, "", 0)], Fate.ANSWERED)

    @rule(
        ids=st.lists(IDS, min_size=1, max_size=2),
        kind=KINDS,
        lock=st.sampled_from(["", "", *LOCKS]),
        retention=st.sampled_from([0, 15]),
        fate=FATES,
    )
    def a_client_enqueues(
        self, ids: list[str], kind: TaskState, lock: str, retention: int, fate: Fate
    ) -> None:
        self.enqueue([self.new_task(task_id, kind, lock, retention) for task_id in ids], fate)

    @precondition(lambda self: self.world.unanswered)
    @rule(fate=FATES)
    def a_client_tries_again(self, fate: Fate) -> None:
        """By now its tasks may have ended."""
        self.enqueue(self.world.unanswered.popleft(), fate)

    def new_task(self, task_id: str, kind: TaskState, lock: str, retention: int) -> NewTask:
        number = str(self.world.next_number())
        message = TaskMessage(
            type="job",
            id=task_id,
            payload=number.encode(),
            unique_key=lock,
            retention=retention,
            max_retry=3,
            group_key="g" if kind is TaskState.AGGREGATING else "",
            timeout=1800,
        )
        score = int(self.now) + (10 if kind is TaskState.SCHEDULED else 0)
        return NewTask(message, kind, score, 100_000 if lock else 0, number)

    # People.

    @rule(what=st.sampled_from(["run", "run", "archive", "delete"]), task_id=IDS)
    def somebody_steers(self, what: str, task_id: str) -> None:
        self.people_act()
        if what == "delete":
            self.ledger.may_drop(task_id)
        elif what == "run":
            self.ledger.revived(task_id)
        self.world.run(inspector.move(self.world.redis, what, task_id, self.now))
        if self.sound and self.predicted:
            self.reference.steer(what, task_id, self.now)

    def people_act(self) -> None:
        """Before they do: in a fleet of asynqpy they do no damage."""

    @rule(pauses=st.sampled_from([False, False, False, True]))
    def somebody_pauses_or_resumes(self, pauses: bool) -> None:
        redis = self.world.redis
        work = inspector.pause(redis, self.now) if pauses else inspector.unpause(redis)
        self.world.run(work)
        self.reference.queue.paused = pauses

    # Time and the network.

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 11.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @precondition(lambda self: self.reference.queue.locks)
    @rule(lock=st.sampled_from(LOCKS))
    def a_lock_expires(self, lock: str) -> None:
        self.world.run(state.ask(self.world.redis, "DEL", lock))
        self.reference.queue.locks.pop(lock, None)

    @precondition(lambda self: self.late)
    @rule(place=st.integers(0, 7))
    def something_arrives_late(self, place: int) -> None:
        self.arrive(self.late.pop(place % len(self.late)))
