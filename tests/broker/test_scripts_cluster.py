"""What the runner makes of a cluster: a node that is away, a slot on the move, and its circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import Connection
from asynqpy.broker.producing import NewTask
from asynqpy.broker.scripts import Call, Runner, command
from asynqpy.broker.slots import slot_of
from asynqpy.clock import Clock
from asynqpy.errors import BrokerUnavailableError
from tests.broker.factories import new_task
from tests.eventually import eventually
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

GONE, STILL = "{a}gone", "{a}still"
BOTH = "return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}"
UNDECLARED = f"return redis.call('GET', '{GONE}') .. redis.call('GET', KEYS[1])"


@pytest.fixture
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster() as processes:
        yield processes


@pytest.fixture
async def connection(cluster: ClusterProcesses) -> AsyncIterator[Connection]:
    connection = Connection.open(cluster.url)
    yield connection
    await connection.close()


@pytest.fixture
def runner(connection: Connection) -> Runner:
    return Runner(connection)


def moving(cluster: ClusterProcesses, key: str) -> MovingSlot:
    source = cluster.primary_of(key)
    target, other = (node for node in cluster.nodes if node is not source)
    return MovingSlot(slot_of(key), source, target, [other])


def count(key: str) -> Call[int]:
    return command("INCR", key, read=int)


@pytest.mark.parametrize(
    "call",
    [
        command("EVAL", BOTH, 2, GONE, STILL, read=list),
        command("EVAL", UNDECLARED, 1, STILL, read=bytes),
    ],
    ids=["declared", "undeclared"],
)
async def test_what_meets_a_slot_on_the_move_has_done_nothing_and_may_wait_for_it(
    cluster: ClusterProcesses, runner: Runner, call: Call[object]
) -> None:
    await runner.run_each([count(GONE), count(STILL)])
    move = moving(cluster, GONE)
    move.begin()
    move.carry(GONE)
    with pytest.raises(
        BrokerUnavailableError, match=r"is moving these keys .* nothing was written"
    ):
        await runner.run(call)
    (refused,) = await runner.run_all([call], patience=0.05)
    assert isinstance(refused, BrokerUnavailableError)
    waiting = asyncio.create_task(runner.run_all([count("{b}"), call, count("{b}")], patience=30))
    await asyncio.sleep(0.05)
    move.end()
    one, answer, two = await waiting
    assert (one, two) == (1, 2)
    assert answer in ([b"1", b"1"], b"11")


async def test_enqueue_waits_for_a_slot_that_arrives_in_a_moment(cluster: ClusterProcesses) -> None:
    broker = Broker(cluster.url, Clock())
    await broker.enqueue([new_task("first")])
    move = moving(cluster, "{default}")
    move.begin()
    move.carry("asynq:{default}:t:first")
    tasks: list[NewTask] = [new_task(f"t{n}") for n in range(3)]

    def scripts_asked() -> int:
        stats = move.source.ask("INFO", "commandstats")
        asked = [it for name, it in stats.items() if name.startswith("cmdstat_eval")]
        return sum(it["calls"] + it["rejected_calls"] for it in asked)

    before = scripts_asked()
    waiting = asyncio.create_task(broker.enqueue(tasks))
    await eventually(lambda: scripts_asked() > before + 1)  # refused, and asked again
    assert not waiting.done()
    move.end()
    assert await waiting == [None] * 3
    turn = await broker.dequeue({"default": 9})
    assert [it.message.id for it in turn.deliveries] == ["first", "t0", "t1", "t2"]
    await broker.close()


async def test_a_node_that_is_away_does_not_keep_calls_from_the_others(
    cluster: ClusterProcesses, connection: Connection, runner: Runner
) -> None:
    names = [f"{{{n}}}" for n in range(12)]
    await runner.run_each([count(name) for name in names])
    doubts = runner.doubts
    dead = cluster.kill_primary_of(names[0])
    for _ in range(3):
        (answer,) = await runner.run_all([count(names[0])])
        assert isinstance(answer, BrokerUnavailableError)
    assert not connection.breaker.is_open
    assert connection.breaker.outages == 0
    assert runner.doubts > doubts
    assert not dead.is_answering


async def test_a_cluster_that_is_gone_opens_the_breaker_and_one_node_closes_it(
    cluster: ClusterProcesses, connection: Connection, runner: Runner
) -> None:
    names = [f"{{{n}}}" for n in range(12)]
    await runner.run_each([count(name) for name in names])
    for node in cluster.nodes:
        node.kill()
    for _ in range(2):
        try:
            answers = await runner.run_all([count(name) for name in names])
        except BrokerUnavailableError:
            continue
        assert all(isinstance(answer, BrokerUnavailableError) for answer in answers)
    assert connection.breaker.is_open
    for node in cluster.nodes:
        node.start_again()
    cluster.wait_until_whole()

    async def works() -> bool:
        try:
            answers = await runner.run_all([count(name) for name in names])
        except BrokerUnavailableError:
            return False
        return not any(isinstance(answer, Exception) for answer in answers)

    await eventually(works, within=15)
    assert not connection.breaker.is_open
