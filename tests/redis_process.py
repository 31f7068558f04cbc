"""Real Redis servers for tests: one, with a sentinel, or a cluster. Each in a temporary folder.

The binary is the one that ``embedded://`` would run. Processes end with the test, and on Linux also
when the test run is killed. Start them from the main thread: they end with the thread that did.
"""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from asynqpy.embedded import find_server

HOST = "127.0.0.1"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0
_BUS_OFFSET = 10_000  # where a cluster's node listens for the others, from its port
_SLOTS = 16_384


class RedisProcess:
    """A running server. A context manager that stops it."""

    def __init__(self, args: list[str], port: int, cwd: Path | TemporaryDirectory[str]) -> None:
        self.port = port
        self._cwd = cwd
        self._log = self.folder / f"redis-{port}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [find_server(), *args],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    @property
    def folder(self) -> Path:
        return self._cwd if isinstance(self._cwd, Path) else Path(self._cwd.name)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def ask(self, *command: str) -> Any:
        """What the server answers; it must not want a password."""
        once = Retry(NoBackoff(), 0)
        with redis.Redis(HOST, self.port, protocol=2, retry=once) as client:
            return client.execute_command(*command)

    def wait_until_ready(self) -> None:
        _wait_for(self._answers, lambda: self._log.read_text(errors="replace"))

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the server did not start:\n{self._log.read_text()}")
        try:
            # Not somebody else's, who was faster to take the port.
            return bool(self.ask("INFO", "server")["process_id"] == self.pid)
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if isinstance(self._cwd, TemporaryDirectory):
            self._cwd.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_redis(*extra_args: str, port: int | None = None, cwd: Path | None = None) -> RedisProcess:
    """A server that keeps nothing on disk, unless ``extra_args`` say otherwise."""
    port = port or free_port()
    args = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", *extra_args]
    return _ready(RedisProcess(args, port, cwd or _temporary_folder()))


def start_sentinel(
    master_port: int, name: str = "mymaster", quorum: int = 1, *config: str
) -> RedisProcess:
    """A sentinel that watches the master; ``config`` are more lines of its configuration."""
    port = free_port()
    folder = _temporary_folder()
    lines = [
        f"port {port}",
        f"bind {HOST}",
        f"sentinel monitor {name} {HOST} {master_port} {quorum}",
        *config,
    ]
    file = Path(folder.name, "sentinel.conf")  # which a sentinel rewrites
    file.write_text("".join(f"{line}\n" for line in lines))
    return _ready(RedisProcess([str(file), "--sentinel"], port, folder))


def _temporary_folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="asynqpy-test-")


def _ready(process: RedisProcess) -> RedisProcess:
    try:
        process.wait_until_ready()
    except BaseException:
        process.kill()
        raise
    return process


class ClusterProcesses:
    """The nodes of a running cluster, all of them primaries. A context manager that stops them."""

    def __init__(self, nodes: list[RedisProcess]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return f"redis-cluster://{','.join(node.address for node in self.nodes)}"

    def join(self) -> None:
        for index, node in enumerate(self.nodes):
            slots = range(*(_SLOTS * i // len(self.nodes) for i in (index, index + 1)))
            node.ask("CLUSTER ADDSLOTS", *map(str, slots))
            node.ask("CLUSTER SET-CONFIG-EPOCH", str(index + 1))
        for one, other in combinations(self.nodes, 2):
            one.ask("CLUSTER MEET", HOST, str(other.port))
        _wait_for(
            lambda: all(self._is_complete(info) for info in self._infos()),
            lambda: f"the cluster is not complete: {self._infos()}",
        )

    def _infos(self) -> list[dict[str, str]]:
        return [node.ask("CLUSTER INFO") for node in self.nodes]

    def _is_complete(self, info: dict[str, str]) -> bool:
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(len(self.nodes)))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_cluster(nodes: int = 3) -> ClusterProcesses:
    cluster = ClusterProcesses([])
    try:
        for _ in range(nodes):
            cluster.nodes.append(start_redis("--cluster-enabled", "yes"))
        cluster.join()
    except BaseException:
        cluster.stop()
        raise
    return cluster


def free_port() -> int:
    """A port that is free, with its cluster bus; outside of those the kernel gives to clients."""
    for port in random.sample(range(10_000, 20_000), 200):
        if _is_free(port) and _is_free(port + _BUS_OFFSET):
            return port
    raise RuntimeError("no free port found")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return listener.connect_ex((HOST, port)) != 0


def _wait_for(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(explain())
        time.sleep(0.01)


_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
