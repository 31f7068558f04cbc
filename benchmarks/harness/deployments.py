"""Sentinel and Cluster for measurements: nothing on disk, no replicas, which would be measured along."""

from __future__ import annotations

import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from asynqpy.embedded import find_server
from benchmarks.harness.processes import ContenderError, Process
from benchmarks.harness.redis_server import Running

HOST = "127.0.0.1"
MASTER = "bench"

#: Seconds that servers have to become ready.
READY = 30.0

#: Where a node of a cluster listens to the others, counted from its port.
_BUS = 10_000

#: The first slots of the three primaries, and the end: so each has four of the queues q0 … q11.
CUTS = (0, 7_300, 12_000, 16_384)


@contextmanager
def sentinel() -> Iterator[Running]:
    """A master, and three sentinels that watch it."""
    with _started() as start:
        master = start("--save", "")
        watched = f"sentinel monitor {MASTER} {HOST} {master} 2\n"
        sentinels = [start("--sentinel", config=watched) for _ in range(3)]
        yield Running(f"redis-sentinel://{_list(sentinels)}/0?master={MASTER}", [master], sentinels)


@contextmanager
def cluster() -> Iterator[Running]:
    """Three primaries."""
    with _started() as start:
        ports = [start("--save", "", "--cluster-enabled", "yes") for _ in CUTS[1:]]
        _join(ports)
        yield Running(f"redis-cluster://{_list(ports)}", ports)


@contextmanager
def _started() -> Iterator[Callable[..., int]]:
    """A function that starts a server, with what is to stand in its configuration file, and answers its port."""
    with ExitStack() as stack:

        def start(*words: str, config: str = "") -> int:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            port = _free_port()
            file = folder / "redis.conf"
            file.write_text(f"port {port}\nbind {HOST}\nlogfile {folder}/log\n{config}")
            stack.enter_context(Process([str(find_server()), str(file), *words], {}, folder))
            _wait(lambda: _answers(port), f"the server at port {port} does not answer")
            return port

        yield start


def _join(ports: Sequence[int]) -> None:
    for place, port in enumerate(ports):
        _ask(port, "CLUSTER ADDSLOTS", *range(*CUTS[place : place + 2]))
        _ask(port, "CLUSTER SET-CONFIG-EPOCH", place + 1)
        _ask(port, "CLUSTER MEET", HOST, ports[0])
    _wait(lambda: all(_is_complete(port, len(ports)) for port in ports), "no cluster came about")


def _is_complete(port: int, nodes: int) -> bool:
    info = _ask(port, "CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(nodes))


def _answers(port: int) -> bool:
    try:
        return bool(_ask(port, "PING"))
    except redis.ConnectionError:
        return False


def _ask(port: int, *command: str | int) -> Any:
    with redis.Redis(HOST, port, protocol=2) as client:
        return client.execute_command(*command)


def _free_port() -> int:
    ports = random.sample(range(10_000, 20_000), 100)
    return next(port for port in ports if _is_free(port) and _is_free(port + _BUS))


def _is_free(port: int) -> bool:
    with socket.socket() as dialer:
        return dialer.connect_ex((HOST, port)) != 0


def _wait(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + READY
    while not condition():
        if time.monotonic() > deadline:
            raise ContenderError(otherwise)
        time.sleep(0.02)


def _list(ports: Sequence[int]) -> str:
    return ",".join(f"{HOST}:{port}" for port in ports)
