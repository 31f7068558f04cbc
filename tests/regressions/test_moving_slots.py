"""B29: a cluster moves the slot of a queue, key by key, while its workers go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from asynqpy import Client, Doctor, Task, TaskState
from asynqpy.broker.admin.admin import Admin
from asynqpy.broker.admin.moving import Move, Target
from asynqpy.broker.broker import Broker
from asynqpy.broker.outcomes import (
    Archive,
    Complete,
    Done,
    Outcome,
    Requeue,
    Retry,
    Settlement,
)
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError, BrokerUnavailableError
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess
from tests.regressions.histories import closing
from tests.server.parts import a_recoverer
from tests.server.servers import serving
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

#: Of every key of the queue ``default``; the first of two nodes has it.
SLOT = 5718

PREFIX = "asynq:{default}:"


#: Where the hash of a task is while the slot moves: at the target already, or at the source when all else has gone.
AHEAD, BEHIND = "ahead", "behind"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[ClusterProcesses]:
    with start_cluster(2) as processes:
        yield processes


@pytest.fixture
def move(two_nodes: ClusterProcesses) -> Iterator[MovingSlot]:
    """From the node that has the slot now to the other; both are empty. It ends with the test at the latest."""
    for node in two_nodes.nodes:
        node.ask("FLUSHALL")
    source = two_nodes.primary_of_queue("default")
    (target,) = (node for node in two_nodes.nodes if node is not source)
    move = MovingSlot(SLOT, source, target)
    yield move
    move.end()


@pytest.fixture
def cluster(two_nodes: ClusterProcesses) -> ClusterProcesses:
    return two_nodes


async def test_b29_a_task_whose_hash_has_gone_ahead_to_another_node_is_not_lost(
    cluster: ClusterProcesses, move: MovingSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq's scripts write a bare hash where the slot was: the task is a ghost there, and an orphan here."""
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        for task_id in ("leased", "waiting"):
            await client.enqueue(Task("email"), task_id=task_id)
        await client.enqueue(Task("email"), task_id="due", process_in=3600)
        await client.enqueue(Task("email"), task_id="grouped", group="g")
        await broker.dequeue({"default": 1})
        move.source.ask("ZADD", PREFIX + "scheduled", "XX", "1000", "due")
        move.source.ask("ZADD", PREFIX + "lease", "XX", "1000", "leased")
        # With each container there, scripts would not be told to try again for the lack of one.
        move.source.ask("ZADD", "asynqpy:{default}:quarantine", "1", "old")
        move.source.ask("ZADD", PREFIX + "retry", "4000000000", "later")
        move.begin()
        move.carry(*(f"{PREFIX}t:{name}" for name in ("leased", "waiting", "due")))
        before = move.values()
        turn = await broker.dequeue({"default": 5})
        assert (turn.deliveries, list(turn.errors)) == ([], ["default"])
        await broker.forward(["default"])
        recoverer = a_recoverer(broker)
        await recoverer.tick()
        await recoverer.tick()
        assert move.values() == before

    move.end()
    move.target.ask("ZREM", PREFIX + "retry", "later")
    worked: list[str] = []
    async with serving(cluster.url, lambda task: worked.append(task.id)):
        await eventually(lambda: len(worked) == 3, within=15)
    assert sorted(worked) == ["due", "leased", "waiting"]


@pytest.mark.parametrize("place", [AHEAD, BEHIND])
@pytest.mark.parametrize(
    "outcome",
    [Done(), Complete(), Retry(at=4e9, error="e"), Archive("e"), Requeue()],
    ids=lambda outcome: type(outcome).__name__.lower(),
)
async def test_b29_a_task_is_not_settled_by_half_while_its_hash_is_elsewhere(
    cluster: ClusterProcesses, move: MovingSlot, outcome: Outcome, place: str
) -> None:
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        await client.enqueue(Task("email"), task_id="held", unique=600, retention=600)
        (held,) = (await broker.dequeue({"default": 1})).deliveries
        _fill_containers(move, broker.clock)
        settlement = Settlement(held.message, held.lease.fence, outcome, broker.clock.now())
        before = _part(move, place, "held")
        (answer,) = await broker.settle([settlement])
        assert isinstance(answer, BrokerError)
        assert _both(move) == before
        move.end()
        assert await broker.settle([settlement]) == [True]
    processed = 1 if isinstance(outcome, Requeue) else 2
    assert move.target.ask("GET", PREFIX + "processed") == b"%d" % processed
    kept = {
        Done: "",
        Complete: "completed",
        Retry: "retry",
        Archive: "archived",
        Requeue: "pending",
    }
    state = move.target.ask("HGET", PREFIX + "t:held", "state") or b""
    assert state.decode() == kept[type(outcome)]
    assert (_lock(move) is None) == isinstance(outcome, Done | Complete)


async def test_b29_the_only_lease_of_a_queue_is_extended_while_its_slot_moves(
    cluster: ClusterProcesses, move: MovingSlot
) -> None:
    """Taken out and put back it would be lost: a key that has become empty cannot be made again then."""
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        await client.enqueue(Task("email"), task_id="held")
        grants = broker.grant(["default"])
        (held,) = (await broker.turn([], {"default": 1}, grants)).deliveries
        move.begin()
        for step in ("here", "there"):
            if step == "there":
                move.carry(PREFIX + "lease")
            held.lease.expires_at = grants[0].expires_at = 0
            assert await broker.extend_lease([held.lease]) == []
            await broker.extend_grants(grants)
            assert min(held.lease.expires_at, grants[0].expires_at) > 0
        move.end()
        settlement = Settlement(held.message, held.lease.fence, Done(), broker.clock.now())
        assert await broker.settle([settlement]) == [True]


async def test_b29_of_several_tasks_none_is_settled_uncounted_while_their_slot_moves(
    cluster: ClusterProcesses, move: MovingSlot
) -> None:
    """The first empties ``lease``, and for the second Redis would have the script ask elsewhere."""
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        for task_id in ("held", "lost"):
            await client.enqueue(Task("email"), task_id=task_id)
        deliveries = (await broker.dequeue({"default": 2})).deliveries
        _fill_containers(move, broker.clock)
        move.source.ask("ZREM", PREFIX + "lease", "lost")
        settlements = [
            Settlement(it.message, it.lease.fence, Retry(at=4e9, error="e"), broker.clock.now())
            for it in deliveries
        ]
        move.begin()
        before = _both(move)
        answers = await broker.settle(settlements)
        assert [type(answer) for answer in answers] == 2 * [BrokerUnavailableError]
        assert _both(move) == before
        move.end()
        assert await broker.settle(settlements) == [True, False]
    for name in ("processed", "failed"):
        assert move.target.ask("GET", PREFIX + name) == b"2"


@pytest.mark.parametrize("place", [AHEAD, BEHIND])
async def test_b29_nothing_is_taken_for_damaged_while_its_hash_is_elsewhere(
    cluster: ClusterProcesses, move: MovingSlot, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        await client.enqueue(Task("email"), task_id="leased", unique=600)
        await broker.dequeue({"default": 1})
        await client.enqueue(Task("email"), task_id="waiting")
        await client.enqueue(Task("email"), task_id="due", process_in=3600)
        await client.enqueue(Task("email"), task_id="grouped", group="g")
        _fill_containers(move, broker.clock)
        move.source.ask("ZADD", PREFIX + "scheduled", "XX", "1000", "due")
        move.source.ask("ZADD", PREFIX + "completed", "1000", "old")
        move.source.ask("HSET", PREFIX + "t:old", "msg", "m", "state", "completed")
        before = _part(move, place, "leased", "waiting", "due", "grouped", "old")
        await broker.forward(["default"])
        assert await broker.delete_expired_completed(["default"]) == 0
        assert list((await broker.dequeue({"default": 5})).errors) == ["default"]
        recoverer = a_recoverer(broker)
        for _ in range(2):
            await recoverer.tick()
        async with Doctor(cluster.url) as doctor:
            with suppress(BrokerError):
                await doctor.heal()
        with pytest.raises(BrokerError):
            await client.enqueue(Task("email"), task_id="waiting")
        assert _both(move) == before
    move.end()


@pytest.mark.parametrize("place", [AHEAD, BEHIND])
@pytest.mark.parametrize("task_id", ["waiting", "due", "grouped"])
@pytest.mark.parametrize("target", Target)
async def test_b29_a_task_is_not_moved_by_half_while_its_hash_is_elsewhere(
    cluster: ClusterProcesses, move: MovingSlot, target: Target, task_id: str, place: str
) -> None:
    """To the script it looks gone: an entry that is deleted then would leave the task behind, in no list."""
    state = {"waiting": TaskState.PENDING, "due": TaskState.SCHEDULED}.get(task_id)
    state, group = (state, "") if state else (TaskState.AGGREGATING, "g")
    if target.value == state.value:
        target = Target.DELETED
    async with Client(cluster.url) as client, closing(Admin(cluster.url)) as admin:
        await client.enqueue(Task("email"), task_id="waiting", unique=600)
        await client.enqueue(Task("email"), task_id="due", process_in=3600)
        for name in ("grouped", "another"):
            await client.enqueue(Task("email"), task_id=name, group="g")
        _fill_containers(move, admin.clock)
        seen = Move(task_id, index=0, at=4_000_000_000)
        before = _part(move, place, task_id)
        with pytest.raises(BrokerUnavailableError):
            await admin.move("default", target, [seen], state=state, group=group)
        with pytest.raises(BrokerUnavailableError):
            await admin.move("default", target, [Move(task_id)])
        assert _both(move) == before
        move.end()
        answers = await admin.move("default", target, [seen], state=state, group=group)
    assert answers == ["moved"]


def _fill_containers(move: MovingSlot, clock: Clock) -> None:
    """See that no key of a script is absent: Redis refuses such scripts by itself while a slot moves."""
    for name in ("scheduled", "retry", "archived", "completed"):
        move.source.ask("ZADD", PREFIX + name, "NX", "4000000000", "later")
    move.source.ask("HSET", PREFIX + "t:later", "msg", "m", "state", "scheduled")
    move.source.ask("LPUSH", PREFIX + "pending", "later")
    move.source.ask("ZADD", "asynqpy:{default}:quarantine", "1", "old")
    for name in ("processed", "failed"):
        for key in (f"{PREFIX}{name}", f"{PREFIX}{name}:{clock.today()}"):
            move.source.ask("SET", key, "1")


def _part(move: MovingSlot, place: str, *task_ids: str) -> list[dict[bytes, bytes]]:
    """Begin the move, and leave the hashes of the tasks on one side and all else on the other."""
    move.begin()
    hashes = {f"{PREFIX}t:{task_id}" for task_id in task_ids}
    move.carry(*(hashes if place == AHEAD else set(move.left()) - hashes))
    return _both(move)


def _both(move: MovingSlot) -> list[dict[bytes, bytes]]:
    """What either node has of the slot, as ``DUMP`` has it."""
    return [_dump(move.source), _dump(move.target)]


def _dump(node: RedisProcess) -> dict[bytes, bytes]:
    with redis.Redis(HOST, node.port, protocol=2, single_connection_client=True) as client:
        found = {}
        for name in client.execute_command("CLUSTER GETKEYSINSLOT", SLOT, 999):
            client.execute_command("ASKING")  # for the next command only
            found[name] = client.execute_command("DUMP", name)
        return found


def _lock(move: MovingSlot) -> bytes | None:
    """Who holds the one of ``email`` without a payload."""
    holder: bytes | None = move.target.ask("GET", PREFIX + "unique:email:")
    return holder
