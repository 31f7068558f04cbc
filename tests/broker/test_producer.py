from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from asynqpy import Client, Task
from asynqpy.broker import producer
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from asynqpy.broker.producing import NewTask, wait_call
from asynqpy.broker.scripts import Call
from asynqpy.errors import (
    AsynqError,
    BrokerAuthError,
    BrokerError,
    BrokerUnavailableError,
    DuplicateTaskError,
    NotReplicatedError,
    TaskIdConflictError,
)
from tests import redis_state as state
from tests import single
from tests.broker.factories import LOCK, grouped_task, new_task, scheduled_task
from tests.eventually import eventually
from tests.redis_process import HOST, start_redis
from tests.redis_proxy import RedisProxy
from tests.replicas import Replicas, client_of
from tests.topologies.cluster import ClusterProcesses, start_cluster

#: Seconds: as long as a test waits that expects no replica to answer.
SHORT = 0.1

PENDING = state.key("default", "pending")


@pytest.fixture
async def broker(replicas: Replicas) -> AsyncIterator[Broker]:
    broker = Broker(replicas.url, replication_timeout=SHORT)
    yield broker
    await broker.close()


@pytest.fixture
async def patient(replicas: Replicas) -> AsyncIterator[Broker]:
    """Waits for longer than a test takes."""
    broker = Broker(replicas.url, replication_timeout=60)
    yield broker
    await broker.close()


@pytest.fixture
async def redis(replicas: Replicas) -> AsyncIterator[Redis]:
    async with replicas.client() as client:
        yield client


def kinds(answers: Sequence[object]) -> list[type]:
    return [type(answer) for answer in answers]


STORED = type(None)


# What is waited for.


async def test_task_is_on_so_many_replicas_when_the_answer_comes(
    replicas: Replicas, broker: Broker
) -> None:
    for number in range(20):
        assert await broker.enqueue([new_task(f"t{number}", min_replicas=2)]) == [None]
        assert replicas.ask_all("LINDEX", PENDING, "0") == [b"t%d" % number] * 2
    assert replicas.ask_all("SMEMBERS", "asynq:queues") == [{b"default"}] * 2


async def test_one_replica_of_two_suffices_where_one_is_asked_for(
    replicas: Replicas, broker: Broker
) -> None:
    with replicas.frozen(1):
        assert await broker.enqueue([new_task("a", min_replicas=1)]) == [None]
        (answer,) = await broker.enqueue([new_task("b", min_replicas=2)])
    assert isinstance(answer, NotReplicatedError)
    assert (answer.wanted, answer.confirmed) == (2, 1)


async def test_task_that_replicas_do_not_confirm_is_stored_and_the_error_says_so(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    with replicas.frozen():
        (answer,) = await broker.enqueue([new_task("a", queue="low", min_replicas=1)])
    assert isinstance(answer, NotReplicatedError)
    assert (answer.task_id, answer.queue, answer.wanted, answer.confirmed) == ("a", "low", 1, 0)
    assert str(answer) == (
        "task a of queue 'low' is stored, but 0 of 1 replicas confirmed it within 0.1 s"
    )
    assert await state.listed(redis, "pending", "low") == ["a"]
    assert await state.invariants(redis, "low") == []


@single.WITHOUT_REPLICAS
@pytest.mark.single_redis("others have replicas")
async def test_redis_without_replicas_confirms_nothing(redis_url: str) -> None:
    broker = Broker(redis_url, replication_timeout=SHORT)
    (answer,) = await broker.enqueue([new_task("a", min_replicas=1)])
    await broker.close()
    assert isinstance(answer, NotReplicatedError)


async def test_who_waits_for_none_sends_no_wait(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    replicas.master.ask("CONFIG", "RESETSTAT")
    assert await broker.enqueue([new_task("a"), new_task("b")]) == [None, None]
    assert "cmdstat_wait" not in await redis.info("commandstats")


async def test_large_batch_waits_once_for_each_of_its_calls(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    asyncio.get_running_loop().set_debug(False)
    await broker.enqueue([new_task("first")])  # by which the script is there
    await state.ask(redis, "DEL", PENDING)
    tasks = [new_task(f"t{n}", min_replicas=2) for n in range(1_201)]
    replicas.master.ask("CONFIG", "RESETSTAT")
    assert await broker.enqueue(tasks) == [None] * 1_201
    assert replicas.ask_all("LLEN", PENDING) == [1_201] * 2
    assert (await redis.info("commandstats"))["cmdstat_wait"]["calls"] == 3


async def test_each_call_of_a_large_batch_is_confirmed_by_itself(
    replicas: Replicas, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(min_replicas: int, seconds: float) -> Call[int]:
        waits.append(seconds)
        if len(waits) == 1:
            return wait_call(min_replicas, seconds)
        replicas.thaw()
        return wait_call(min_replicas, 60)

    monkeypatch.setattr(producer, "wait_call", wait)
    tasks = [new_task(f"t{n}", min_replicas=1) for n in range(501)]
    with replicas.frozen():
        answers = await broker.enqueue(tasks)
    assert kinds(answers) == [NotReplicatedError] * 500 + [STORED]
    assert waits == [SHORT, producer._NO_PATIENCE]


async def test_each_task_of_a_mixed_list_gets_its_own_answer(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    await state.seed_pending(redis, state.message("taken"))
    await state.ask(redis, "SET", state.key("bad", "pending"), "no list")
    tasks = [
        new_task("plain"),
        new_task("a", lock=LOCK, min_replicas=1),
        new_task("b", lock=LOCK, min_replicas=1),
        new_task("taken", token="mine", min_replicas=2),
        scheduled_task("c", at=4_000_000_000, min_replicas=1),
        grouped_task("d", group="g", at=1, min_replicas=2),
        new_task("e", queue="bad", min_replicas=1),
    ]
    expected = {2: DuplicateTaskError, 3: TaskIdConflictError, 6: BrokerError}
    with replicas.frozen():
        answers = await broker.enqueue(tasks)
    late = [STORED, *[NotReplicatedError] * 6]
    assert kinds(answers) == [expected.get(place, late[place]) for place in range(7)]
    assert await state.invariants(redis) == []


# Who does not wait.


async def test_tasks_that_wait_for_none_are_answered_while_others_wait(
    replicas: Replicas, patient: Broker
) -> None:
    told: dict[int, AsynqError | None] = {}

    def answered(places: Sequence[int], answers: Sequence[AsynqError | None]) -> None:
        told.update(zip(places, answers, strict=True))

    tasks = [new_task("a", min_replicas=1), new_task("b"), new_task("c", min_replicas=2)]
    with replicas.frozen():
        sending = asyncio.create_task(patient.enqueue([*tasks, new_task("d")], answered))
        await eventually(lambda: bool(told))
        assert (told, sending.done()) == ({1: None, 3: None}, False)
        replicas.thaw()
        assert await sending == [None] * 4


async def test_waits_do_not_take_all_connections(
    replicas: Replicas, patient: Broker, redis: Redis
) -> None:
    with replicas.frozen():
        waiting = [
            asyncio.create_task(patient.enqueue([new_task(f"t{n}", min_replicas=1)]))
            for n in range(40)
        ]
        await eventually(partial(blocked, redis, producer._MOST_WAITS))
        assert await patient.enqueue([new_task("plain")]) == [None]
        assert not any(call.done() for call in waiting)
        replicas.thaw()
        assert await asyncio.gather(*waiting) == [[None]] * 40


async def blocked(redis: Redis, count: int) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"] == count)


# Lost answers, refusals, and repetitions.


async def test_repetition_waits_for_what_the_first_attempt_wrote(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    """Some servers wait for the last write of the connection only, and know of none on a new one."""
    tasks = [
        new_task("a", token="first", min_replicas=1),
        new_task("made", lock=LOCK, min_replicas=1),
    ]
    with replicas.frozen():
        assert kinds(await broker.enqueue(tasks)) == [NotReplicatedError] * 2
        before = await state.dump(redis)
        again = Broker(replicas.url, replication_timeout=SHORT)
        assert kinds(await again.enqueue(tasks)) == [NotReplicatedError] * 2
    assert await again.enqueue(tasks) == [None, None]
    await again.close()
    assert await state.dump(redis) == before


async def test_wait_follows_a_script_that_redis_had_forgotten(
    replicas: Replicas, broker: Broker, redis: Redis
) -> None:
    await broker.enqueue([new_task("first", min_replicas=1)])
    replicas.master.ask("SCRIPT", "FLUSH")
    with replicas.frozen():
        (answer,) = await broker.enqueue([new_task("a", min_replicas=1)])
    assert isinstance(answer, NotReplicatedError)
    replicas.master.ask("SCRIPT", "FLUSH")
    replicas.master.ask("CONFIG", "RESETSTAT")
    assert await broker.enqueue([new_task("b", min_replicas=2)]) == [None]
    assert replicas.ask_all("LINDEX", PENDING, "0") == [b"b"] * 2
    # The first one came too early.
    assert (await redis.info("commandstats"))["cmdstat_wait"]["calls"] == 2


async def test_user_who_may_not_wait_learns_that_the_task_is_stored(
    replicas: Replicas, redis: Redis
) -> None:
    await state.ask(redis, "ACL", "SETUSER", "producer", "on", ">pw", "~*", "&*", "+@all", "-wait")
    broker = Broker(f"redis://producer:pw@{replicas.master.address}/0")
    (answer,) = await broker.enqueue([new_task("a", min_replicas=1)])
    await broker.close()
    assert isinstance(answer, NotReplicatedError)
    assert "'default' is stored, but whether replicas have it is not known" in str(answer)
    assert isinstance(answer.__cause__, BrokerAuthError)
    assert (answer.wanted, answer.confirmed) == (1, 0)
    assert await state.listed(redis, "pending") == ["a"]


async def test_connection_lost_in_the_wait_leaves_open_what_happened(
    replicas: Replicas, redis: Redis
) -> None:
    task = new_task("a", token="first", min_replicas=1)
    async with RedisProxy(replicas.master.port) as proxy:
        broker = Broker(proxy.url, replication_timeout=60)
        with replicas.frozen():
            sending = asyncio.create_task(broker.enqueue([task]))
            await eventually(partial(blocked, redis, 1))
            proxy.cut()
            with pytest.raises(BrokerUnavailableError):
                await sending
        assert await broker.enqueue([task]) == [None]
        await broker.close()
    assert replicas.ask_all("LRANGE", PENDING, "0", "-1") == [[b"a"]] * 2


async def test_wait_ends_well_before_the_connection_counts_as_dead(replicas: Replicas) -> None:
    async with (
        RedisProxy(replicas.master.port) as proxy,
        Redis(host=HOST, port=proxy.port, socket_timeout=0.6) as client,
    ):
        broker = Broker(client, replication_timeout=60)
        with replicas.frozen():
            (answer,) = await broker.enqueue([new_task("a", min_replicas=1)])
    assert isinstance(answer, NotReplicatedError)
    assert b"WAIT\r\n$1\r\n1\r\n$3\r\n300\r\n" in b"".join(proxy.requests)


# Clients of the caller's, and clusters.


async def test_client_of_the_callers_waits_too(replicas: Replicas, redis: Redis) -> None:
    broker = Broker(redis, replication_timeout=SHORT)
    assert await broker.enqueue([new_task("a", min_replicas=2)]) == [None]
    with replicas.frozen():
        assert kinds(await broker.enqueue([new_task("b", min_replicas=1)])) == [NotReplicatedError]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster(3, 1, "--repl-ping-replica-period", "3600") as cluster:
        yield cluster


def queues_of_each(cluster: ClusterProcesses) -> list[str]:
    """One queue of each primary."""
    found: dict[int, str] = {}
    for number in range(100):
        found.setdefault(cluster.primary_of_queue(f"q{number}").port, f"q{number}")
        if len(found) == 3:
            break
    return list(found.values())


async def test_each_queue_of_a_cluster_waits_for_the_replicas_of_its_node(
    cluster: ClusterProcesses,
) -> None:
    queues = queues_of_each(cluster)
    assert len(queues) == 3
    broker = Broker(cluster.url, replication_timeout=1.0)  # two of the replicas are to be in time
    tasks = [
        new_task(f"{queue}-{n}", queue=queue, min_replicas=1) for n in "12" for queue in queues
    ]
    assert await broker.enqueue(tasks) == [None] * 6
    (replica,) = cluster.replicas_of(cluster.primary_of_queue(queues[1]))
    replica.pause()
    tasks = [new_task(f"{q}-{n}", queue=q, min_replicas=n) for n in (0, 1) for q in queues]
    try:
        answers = await broker.enqueue(tasks)
    finally:
        replica.resume()
    assert kinds(answers) == [STORED, STORED, STORED, STORED, NotReplicatedError, STORED]
    await broker.close()


async def test_what_a_cluster_stored_is_on_the_replica_of_its_node(
    cluster: ClusterProcesses,
) -> None:
    broker = Broker(cluster.url)
    tasks: list[NewTask] = []
    for queue in queues_of_each(cluster):
        tasks += [
            new_task(f"{queue}-a", queue=queue, min_replicas=1),
            scheduled_task(f"{queue}-b", queue=queue, at=4_000_000_000, min_replicas=1),
        ]
    assert await broker.enqueue(tasks) == [None] * 6
    await broker.close()
    for task in tasks:
        queue = task.message.queue
        (replica,) = cluster.replicas_of(cluster.primary_of_queue(queue))
        async with client_of(replica) as client:
            assert await state.ask(client, "READONLY")
            assert await state.ask(client, "EXISTS", state.task_key(queue, task.message.id)) == 1


async def test_wait_goes_where_its_task_is_redirected_to(cluster: ClusterProcesses) -> None:
    broker = Broker(cluster.url, replication_timeout=5)
    assert await broker.enqueue([new_task("a", queue="moved", min_replicas=1)]) == [None]
    old = cluster.primary_of_queue("moved")
    new = cluster.fail_over(old)
    await eventually(lambda: cluster.replicas_of(new) == [old])
    assert await broker.enqueue([new_task("b", queue="moved", min_replicas=1)]) == [None]
    await broker.close()
    async with client_of(old) as client:
        assert await state.ask(client, "READONLY")
        assert await state.ask(client, "EXISTS", state.task_key("moved", "b")) == 1


async def test_client_of_the_callers_for_a_cluster_is_refused_before_anything_is_stored(
    cluster: ClusterProcesses,
) -> None:
    async with RedisCluster(HOST, cluster.nodes[0].port) as client:
        source: RedisSource = client
        broker = Broker(source)
        with pytest.raises(ValueError, match="from a redis-cluster:// URL"):
            await broker.enqueue([new_task("plain", queue="c"), new_task("a", min_replicas=1)])
        assert await client.exists(state.key("c", "pending")) == 0
        assert await broker.enqueue([new_task("plain", queue="c")]) == [None]


async def test_each_caller_who_may_not_wait_gets_an_error_of_his_own(
    cluster: ClusterProcesses,
) -> None:
    async with RedisCluster(HOST, cluster.nodes[0].port) as redis:
        client = Client(redis, min_replicas=1)
        calls = [client.enqueue(Task("t")) for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert kinds(errors) == [ValueError] * 3
        assert len({id(error) for error in errors}) == 3
        assert (await client.enqueue(Task("t"), min_replicas=0)).queue == "default"


async def test_queue_that_has_tasks_and_is_in_no_list_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The list is on a node of the cluster that is away, the tasks are on another."""
    with start_cluster(3, 0, "--cluster-require-full-coverage", "no") as cluster:
        away = cluster.primary_of("asynq:queues")
        (queue, *_) = (
            name
            for name in (f"q{number}" for number in range(100))
            if cluster.primary_of_queue(name) is not away
        )
        broker = Broker(cluster.url)
        await broker.ping()
        away.kill()
        for name in "ab":
            assert await broker.enqueue([new_task(name, queue=queue)]) == [None]
        await broker.close()
    told = [it for it in caplog.records if "in no list of queues" in it.getMessage()]
    assert [it.levelname for it in told] == ["WARNING"]
    assert queue in told[0].getMessage()


async def test_master_that_is_demoted_in_the_wait_confirms_nothing() -> None:
    with start_redis() as master, start_redis() as other:
        broker = Broker(master.url, replication_timeout=60)
        await broker.enqueue([new_task("first")])
        async with client_of(master) as redis:
            sending = asyncio.create_task(broker.enqueue([new_task("a", min_replicas=1)]))
            await eventually(partial(blocked, redis, 1))
            master.ask("REPLICAOF", HOST, str(other.port))
            (answer,) = await sending
        await broker.close()
    assert isinstance(answer, NotReplicatedError)
    assert "UNBLOCKED" in str(answer)
