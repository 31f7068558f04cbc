"""The four ways to run Redis that asynqpy connects to, as small as they come.

Each is a context manager: within it the servers run, and the topology says by which URL they are reached.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from examples.topologies.servers import HOST, RedisServer, free_port, wait_until

SLOTS = 16_384
MASTER = "mymaster"

#: ms without an answer after which sentinels, or the nodes of a cluster, take a server for dead. Use 5,000 or more
#: where a network or a virtual machine may hold its breath; this is short so that there is something to see.
DOWN_AFTER = "1000"


@dataclass(frozen=True)
class Topology:
    """``primary`` is the server whose death is worth watching."""

    url: str
    primary: RedisServer


class Folder:
    """Starts servers, each in a folder of its own below one; stops them at the end of the context."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack

    def start(self, *words: str) -> RedisServer:
        """A server with an append-only file, so that a restart finds what was there."""
        port = free_port()
        durable = ("--appendonly", "yes", "--save", "")
        return self._run(port, "--port", str(port), "--bind", HOST, *durable, *words)

    def start_sentinel(self, master: RedisServer) -> RedisServer:
        port = free_port()
        lines = [
            f"port {port}",
            f"bind {HOST}",
            f"sentinel monitor {MASTER} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}",
            f"sentinel failover-timeout {MASTER} 10000",
        ]
        config = self.path / f"sentinel-{port}.conf"  # which the sentinel rewrites
        config.write_text("\n".join(lines) + "\n")
        return self._run(port, str(config), "--sentinel")

    def start_tls(self, files: Path) -> RedisServer:
        port = free_port()
        words = ["--port", "0", "--tls-port", str(port), "--bind", HOST, "--appendonly", "yes"]
        words += ["--tls-cert-file", f"{files}/server.crt", "--tls-key-file", f"{files}/server.key"]
        words += ["--tls-ca-cert-file", f"{files}/ca.crt", "--tls-auth-clients", "no"]
        return self._run(port, *words, ssl=True, ssl_ca_certs=f"{files}/ca.crt")

    def _run(self, port: int, *words: str, **client: Any) -> RedisServer:
        own = self.path / str(port)
        own.mkdir()
        server = RedisServer(own, port, *words, **client)
        self._stack.callback(server.stop)
        server.start()
        return server


@contextmanager
def single(path: Path) -> Iterator[Topology]:
    """One server."""
    with ExitStack() as stack:
        server = Folder(path, stack).start()
        yield Topology(f"redis://{server.address}/0", server)


@contextmanager
def tls(path: Path) -> Iterator[Topology]:
    """One server that speaks TLS only, with a certificate of a CA that nobody else knows."""
    with ExitStack() as stack:
        make_certificates(path)
        server = Folder(path, stack).start_tls(path)
        yield Topology(f"rediss://{server.address}/0?ssl_ca_certs={path}/ca.crt", server)


@contextmanager
def sentinel(path: Path) -> Iterator[Topology]:
    """A master, two replicas, and three sentinels, of which two must agree that the master is dead."""
    with ExitStack() as stack:
        folder = Folder(path, stack)
        master = folder.start()
        for _ in range(2):
            folder.start("--replicaof", HOST, str(master.port))
        sentinels = [folder.start_sentinel(master) for _ in range(3)]
        wait_until(lambda: all(map(_knows_all, sentinels)), "the sentinels found not all others")
        addresses = ",".join(each.address for each in sentinels)
        yield Topology(f"redis-sentinel://{addresses}/0?master={MASTER}", master)


def _knows_all(sentinel: RedisServer) -> bool:
    seen = sentinel.ask("SENTINEL MASTER", MASTER)
    return (seen["num-slaves"], seen["num-other-sentinels"]) == (2, 2)


@contextmanager
def cluster(path: Path) -> Iterator[Topology]:
    """Three primaries, each with a third of the slots and a replica."""
    with ExitStack() as stack:
        folder = Folder(path, stack)
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", DOWN_AFTER]
        words += ["--cluster-require-full-coverage", "no"]  # two thirds are better than nothing
        nodes = [folder.start(*words) for _ in range(6)]
        join(nodes[:3], nodes[3:])
        addresses = ",".join(node.address for node in nodes)
        yield Topology(f"redis-cluster://{addresses}", nodes[0])


def join(primaries: Sequence[RedisServer], replicas: Sequence[RedisServer]) -> None:
    """What ``redis-cli --cluster create`` does."""
    nodes = [*primaries, *replicas]
    for place, node in enumerate(nodes):
        node.ask("CLUSTER SET-CONFIG-EPOCH", place + 1)
    for place, primary in enumerate(primaries):
        first, end = (SLOTS * (place + part) // len(primaries) for part in (0, 1))
        primary.ask("CLUSTER ADDSLOTS", *range(first, end))
    for one, other in combinations(nodes, 2):
        one.ask("CLUSTER MEET", HOST, other.port)
    for primary, replica in zip(primaries, replicas, strict=True):
        _replicate(primary, replica)
    wait_until(lambda: all(map(_is_complete, nodes)), "the cluster is not complete")


def _replicate(primary: RedisServer, replica: RedisServer) -> None:
    name = primary.ask("CLUSTER MYID").decode()
    wait_until(lambda: name in str(replica.ask("CLUSTER NODES")), "nodes do not meet")
    replica.ask("CLUSTER REPLICATE", name)


def _is_complete(node: RedisServer) -> bool:
    info = node.ask("CLUSTER INFO")
    linked = node.ask("INFO", "replication")
    has_copy = linked.get("connected_slaves") == 1 or linked.get("master_link_status") == "up"
    return has_copy and (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "6")


def make_certificates(folder: Path) -> None:
    """``ca.crt``, and ``server.crt`` with ``server.key`` for the loopback address, valid for two days."""
    (folder / "server.ext").write_text(
        f"subjectAltName=IP:{HOST},DNS:localhost\nauthorityKeyIdentifier=keyid\n"
    )
    if not shutil.which("openssl"):
        raise SystemExit("certificates are made by the command openssl, and it is not on PATH")
    for words in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=throw-away-ca -keyout ca.key -out ca.crt"
        " -addext keyUsage=critical,keyCertSign",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2"
        " -extfile server.ext -out server.crt",
    ):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


LAYOUTS: dict[str, Callable[[Path], AbstractContextManager[Topology]]] = {
    "single": single,
    "sentinel": sentinel,
    "cluster": cluster,
    "tls": tls,
}
