"""The permissions of the guide for clusters, sentinels, other databases and single queues."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from asynqpy import (
    ActiveTask,
    BrokerAuthError,
    BrokerError,
    Client,
    NotReplicatedError,
    Task,
)
from asynqpy.broker.broker import Broker
from tests.acceptance.permissions import PASSWORD, USERS, WATCHER, User, variant
from tests.eventually import eventually
from tests.redis_process import RedisProcess, start_redis
from tests.server.servers import serving
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.sentinel import start_sentinel

PRODUCER, WORKER = USERS["producer"], USERS["worker"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisProcess]:
    with start_redis() as process:
        yield process


def install(user: User, *servers: RedisProcess) -> None:
    for server in servers:
        server.ask("FLUSHALL")
        user.install(server)
        server.ask("ACL", "LOG", "RESET")


def refused(*servers: RedisProcess) -> list[object]:
    return [entry for server in servers for entry in server.ask("ACL", "LOG")]


async def live(producer: str, worker: str, servers: Sequence[RedisProcess], **options: str) -> None:
    """Enqueue a task, and run it on a server that would poll too late."""
    ran = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        ran.set()

    queue = options.get("queue", "default")
    working = serving(worker, handle, task_check_interval=60, queues={queue: 1})
    async with working, Client(producer) as client:
        await eventually(lambda: all(map(is_tracking, servers)))
        await client.enqueue(Task("t"), queue=queue)
        await asyncio.wait_for(ran.wait(), 5)


def is_tracking(server: RedisProcess) -> bool:
    return bool(server.ask("INFO", "clients")["tracking_clients"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster() as processes:
        yield processes


def of_cluster(user: User, cluster: ClusterProcesses) -> str:
    return f"redis-cluster://{user.name}:{PASSWORD}@{cluster.nodes[0].address}"


async def test_of_a_cluster_the_slots_are_to_be_asked_for(cluster: ClusterProcesses) -> None:
    (more,) = variant("a cluster")
    for user in (PRODUCER, WORKER):
        install(user.plus(*more), *cluster.nodes)
    await live(of_cluster(PRODUCER, cluster), of_cluster(WORKER, cluster), cluster.nodes)
    assert refused(*cluster.nodes) == []
    install(PRODUCER, *cluster.nodes)
    async with Client(of_cluster(PRODUCER, cluster)) as client:
        with pytest.raises(BrokerAuthError, match="cluster"):
            await client.enqueue(Task("t"))


async def test_another_database_is_to_be_selected(server: RedisProcess) -> None:
    (more,) = variant("a database other than 0")
    for user in (PRODUCER, WORKER):
        install(user.plus(*more), server)
    await live(f"{PRODUCER.url(server)}/1", f"{WORKER.url(server)}/1", [server])
    assert refused(server) == []
    install(PRODUCER, server)
    async with Client(f"{PRODUCER.url(server)}/1") as client:
        with pytest.raises(BrokerAuthError):
            await client.enqueue(Task("t"))


async def test_replicas_are_to_be_waited_for(server: RedisProcess) -> None:
    (more,) = variant("`min_replicas`")
    url = PRODUCER.url(server)
    for user, cause in ((PRODUCER.plus(*more), None), (PRODUCER, BrokerAuthError)):
        install(user, server)
        async with Client(url, min_replicas=1, replication_timeout=0.01) as client:
            with pytest.raises(NotReplicatedError) as told:
                await client.enqueue(Task("t"))
        assert isinstance(told.value.__cause__, cause or type(None))


async def test_who_asks_for_a_cancel_publishes_it(server: RedisProcess) -> None:
    command, channel = variant("who asks for tasks to be cancelled")
    install(PRODUCER.plus(*command, *channel), server)
    broker = Broker(PRODUCER.url(server))
    assert await broker.publish_cancel("t1") == 0
    await broker.close()


async def test_a_client_may_be_asked_whether_redis_answers(server: RedisProcess) -> None:
    install(PRODUCER.plus(*variant("`Client.ping()`")[0]), server)
    async with Client(PRODUCER.url(server)) as client:
        await client.ping()
        install(PRODUCER, server)
        with pytest.raises(BrokerAuthError):
            await client.ping()


def of_one_queue(user: User, rules: Sequence[str]) -> User:
    others = tuple(
        it for it in user.rules if not it.startswith(("~asynq:{*}", "~asynq:*", "~asynqpy:*"))
    )
    return User(user.name, (*others, *rules))


async def test_a_user_may_be_of_one_queue(server: RedisProcess) -> None:
    for_producer, _, for_worker = variant("one queue only, `orders`")
    install(of_one_queue(PRODUCER, for_producer), server)
    install(of_one_queue(WORKER, for_worker), server)
    await live(PRODUCER.url(server), WORKER.url(server), [server], queue="orders")
    assert refused(server) == []
    async with Client(PRODUCER.url(server)) as client:
        with pytest.raises(BrokerAuthError):
            await client.enqueue(Task("t"), queue="payments")
    broker = Broker(WORKER.url(server), owner="h:1:s")
    turn = await broker.dequeue({"payments": 1})
    assert isinstance(turn.errors["payments"], BrokerAuthError)
    await broker.close()


async def test_a_user_of_sentinels_asks_for_the_master_and_is_told(server: RedisProcess) -> None:
    for user in (PRODUCER, WORKER):
        install(user, server)
    with start_sentinel(server.port) as sentinel:
        more = f"master=mymaster&sentinel_username={WATCHER.name}&sentinel_password={PASSWORD}"
        producer, worker = (
            f"redis-sentinel://{user.name}:{PASSWORD}@{sentinel.address}?{more}"
            for user in (PRODUCER, WORKER)
        )
        WATCHER.install(sentinel)
        sentinel.ask("ACL", "LOG", "RESET")
        await live(producer, worker, [server])
        assert refused(sentinel) == []
        for rule in ("+subscribe", "&+switch-master"):
            WATCHER.without(rule).install(sentinel)
            sentinel.ask("ACL", "LOG", "RESET")
            await live(producer, worker, [server])
            assert refused(sentinel)
        for rule in ("+sentinel|master", "+sentinel|get-master-addr-by-name"):
            WATCHER.without(rule).install(sentinel)
            async with Client(producer) as client:
                with pytest.raises(BrokerError):
                    await client.enqueue(Task("t"))
