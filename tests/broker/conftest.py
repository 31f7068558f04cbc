from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel

from asynqpy.broker.broker import Broker
from tests.fake_clock import FakeClock
from tests.redis_process import RedisProcess, start_redis
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.sentinel import start_sentinel


@dataclass(frozen=True)
class Deployment:
    """Redis in one of its shapes: where clients find it, and the servers that hold the data."""

    url: str
    servers: Sequence[RedisProcess]

    def ask_all(self, *command: str) -> list[Any]:
        return [server.ask(*command) for server in self.servers]


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster() as processes:
        yield processes


@pytest.fixture
def empty_cluster(cluster: ClusterProcesses) -> ClusterProcesses:
    """Shared with others: its slots stay where they are."""
    for node in cluster.nodes:
        node.ask("FLUSHALL")
    return cluster


@pytest.fixture(scope="session")
def sentinel_deployment() -> Iterator[Deployment]:
    with start_redis() as master, start_sentinel(master.port) as sentinel:
        yield Deployment(f"redis-sentinel://{sentinel.address}/0?master=mymaster", [master])


@pytest.fixture(params=["single", "sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Each shape of Redis in turn, empty."""
    if request.param == "single":
        server: RedisProcess = request.getfixturevalue("single_redis")
        deployment = Deployment(server.url, [server])
    elif request.param == "sentinel":
        deployment = request.getfixturevalue("sentinel_deployment")
    else:
        processes: ClusterProcesses = request.getfixturevalue("cluster")
        deployment = Deployment(processes.url, processes.nodes)
    deployment.ask_all("FLUSHALL")
    deployment.ask_all("SCRIPT FLUSH")
    return deployment


@pytest.fixture
async def broker(redis_url: str, clock: FakeClock) -> AsyncIterator[Broker]:
    broker = Broker(redis_url, clock)
    yield broker
    await broker.close()


@pytest.fixture
async def other_broker(redis_url: str, clock: FakeClock) -> AsyncIterator[Broker]:
    """Another process on the same Redis."""
    broker = Broker(redis_url, clock)
    yield broker
    await broker.close()


@pytest.fixture
async def callers_client(deployment: Deployment) -> AsyncIterator[Redis | RedisCluster]:
    """A client as a user of redis-py makes it: with its default settings, also for retries."""
    scheme, _, address = deployment.url.partition("://")
    host, port = address.split("/")[0].split(",")[0].split(":")
    sentinel = Sentinel([(host, int(port))])  # type: ignore[no-untyped-call]
    if scheme == "redis-cluster":
        client: Any = RedisCluster(host, int(port))
    elif scheme == "redis-sentinel":
        client = sentinel.master_for("mymaster")
    else:
        client = Redis.from_url(deployment.url)
    yield client
    for each in (client, *sentinel.sentinels):
        await each.aclose()
