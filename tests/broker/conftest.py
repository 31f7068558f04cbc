from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.redis_process import (
    ClusterProcesses,
    RedisProcess,
    start_cluster,
    start_redis,
    start_sentinel,
)


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


@pytest.fixture(scope="session")
def sentinel_deployment() -> Iterator[Deployment]:
    with start_redis() as master, start_sentinel(master.port) as sentinel:
        yield Deployment(f"redis-sentinel://{sentinel.address}/0?master=mymaster", [master])


@pytest.fixture(params=["single", "sentinel", "cluster"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Each shape of Redis in turn, empty."""
    if request.param == "single":
        server: RedisProcess = request.getfixturevalue("redis_server")
        deployment = Deployment(server.url, [server])
    elif request.param == "sentinel":
        deployment = request.getfixturevalue("sentinel_deployment")
    else:
        processes: ClusterProcesses = request.getfixturevalue("cluster")
        deployment = Deployment(processes.url, processes.nodes)
    deployment.ask_all("FLUSHALL")
    deployment.ask_all("SCRIPT FLUSH")
    return deployment
