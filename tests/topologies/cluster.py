"""A cluster of real processes, with replicas or without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from tests.redis_process import HOST, RedisProcess, start_redis, temporary_folder, wait_for

SLOTS = 16_384


class ClusterProcesses:
    """What ``start_cluster`` has started. A context manager that stops it.

    ``nodes`` has the first primaries, in the order of their slots, and then as many replicas of
    each of them in turn. Who is primary of what now, the nodes say.
    """

    def __init__(self) -> None:
        self.nodes: list[RedisProcess] = []
        self._folder = temporary_folder()

    @property
    def url(self) -> str:
        return f"redis-cluster://{','.join(node.address for node in self.nodes)}"

    def primary_of(self, key: str) -> RedisProcess:
        """Who has the slot of the key now, as most of the nodes that answer see it."""
        slot = self.slot_of(key)
        holders = [holder for node in self._answering() for holder in _holders(node, slot)]
        if not holders:
            raise LookupError(f"nobody has the slot of {key}")
        return self._node_at(max(set(holders), key=holders.count))

    def primary_of_queue(self, queue: str) -> RedisProcess:
        return self.primary_of(f"asynq:{{{queue}}}:pending")

    def slot_of(self, key: str) -> int:
        return int(self._answering()[0].ask("CLUSTER KEYSLOT", key))

    def primaries(self) -> list[RedisProcess]:
        """Those nodes that answer and say that they are primaries with slots."""
        return [node for node in self._answering() if _has_slots(node)]

    def replicas_of(self, primary: RedisProcess) -> list[RedisProcess]:
        """Those nodes that answer and follow this one, in step or not."""
        return [node for node in self._answering() if _master_port(node) == primary.port]

    def kill_primary_of(self, key: str) -> RedisProcess:
        """The one that is dead now; the others have yet to notice."""
        primary = self.primary_of(key)
        primary.kill()
        return primary

    def fail_over(self, primary: RedisProcess) -> RedisProcess:
        """Have a replica take over, though the primary is well; that replica."""
        heir = self.replicas_of(primary)[0]
        heir.ask("CLUSTER FAILOVER")
        wait_for(lambda: _has_slots(heir), lambda: f"{heir.address} has not taken over")
        return heir

    def wait_for_heir(self, dead: RedisProcess, key: str, within: float = 30.0) -> RedisProcess:
        """Who has the key instead of the dead node, once all that answer say so."""

        def is_inherited() -> bool:
            slot = self.slot_of(key)
            views = {holder for node in self._answering() for holder in _holders(node, slot)}
            return len(views) == 1 and dead.port not in views and self._is_up()

        wait_for(is_inherited, lambda: f"{dead.address} has no heir: {self._infos()}", within)
        return self.primary_of(key)

    def restart(self, node: RedisProcess) -> None:
        """Start a dead node again; if another has taken over, the cluster makes it a replica."""
        node.start_again()

    def wait_until_whole(self, within: float = 30.0) -> None:
        """Return once all nodes that answer see each other and every slot, and replicas are in step."""
        wait_for(self._is_whole, lambda: f"the cluster is not whole: {self._infos()}", within)

    def _is_whole(self) -> bool:
        answering = self._answering()
        ports = {node.port for node in answering}
        return self._is_up() and all(
            ports <= _well_known(node) and _is_in_step(node) for node in answering
        )

    def _is_up(self) -> bool:
        return all(info["cluster_state"] == "ok" for info in self._infos())

    def _infos(self) -> list[dict[str, str]]:
        return [node.ask("CLUSTER INFO") for node in self._answering()]

    def _answering(self) -> list[RedisProcess]:
        return [node for node in self.nodes if node.is_answering]

    def _node_at(self, port: int) -> RedisProcess:
        return next(node for node in self.nodes if node.port == port)

    def start_nodes(self, count: int, args: Sequence[str]) -> None:
        for index in range(count):
            folder = Path(self._folder.name, f"node-{index}")
            folder.mkdir()
            self.nodes.append(start_redis("--cluster-enabled", "yes", *args, cwd=folder))

    def join(self, primaries: int) -> None:
        for index, node in enumerate(self.nodes):
            node.ask("CLUSTER SET-CONFIG-EPOCH", str(index + 1))
            if index < primaries:
                slots = range(*(SLOTS * i // primaries for i in (index, index + 1)))
                node.ask("CLUSTER ADDSLOTS", *map(str, slots))
        for one, other in combinations(self.nodes, 2):
            one.ask("CLUSTER MEET", HOST, str(other.port))
        self.wait_until_whole()
        for index, replica in enumerate(self.nodes[primaries:]):
            replica.ask("CLUSTER REPLICATE", node_id(self.nodes[index % primaries]))
        self.wait_until_whole()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_cluster(
    primaries: int = 3, replicas: int = 0, *redis_args: str, node_timeout: int | None = None
) -> ClusterProcesses:
    """A cluster of ``primaries``, each with ``replicas``, that has spread its slots in equal parts.

    ``node_timeout`` is in ms: how long a node may be silent before the others call it dead. With
    replicas it is 2000, so that one takes over within seconds; else Redis's own. Returns once all
    nodes know each other, and replicas have what their primary has.
    """
    if replicas:
        # A replica takes over however long it has been without its primary.
        redis_args = ("--cluster-replica-validity-factor", "0", *redis_args)
        node_timeout = node_timeout or 2000
    if node_timeout:
        redis_args = ("--cluster-node-timeout", str(node_timeout), *redis_args)
    cluster = ClusterProcesses()
    try:
        cluster.start_nodes(primaries * (1 + replicas), redis_args)
        cluster.join(primaries)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def node_id(node: RedisProcess) -> str:
    """The name by which the cluster knows it."""
    return str(node.ask("CLUSTER", "MYID").decode())


def _holders(node: RedisProcess, slot: int) -> list[int]:
    """The port of the primary that has the slot in the eyes of the node; none if nobody has it."""
    ranges = node.ask("CLUSTER", "SLOTS")
    return [primary[1] for first, last, primary, *_ in ranges if first <= slot <= last]


def _well_known(node: RedisProcess) -> set[int]:
    """The ports of the nodes that this one is connected to and finds in order."""
    return {
        int(address.partition("@")[0].rpartition(":")[2])
        for _, address, flags, *_, link in (line[:8] for line in _table(node))
        if link == "connected" and not re.search("fail|handshake|noaddr", flags)
    }


def _has_slots(node: RedisProcess) -> bool:
    myself = next(line for line in _table(node) if "myself" in line[2])
    return "master" in myself[2] and len(myself) > 8


def _table(node: RedisProcess) -> list[list[str]]:
    """``CLUSTER NODES``, a list of words for each: from the ninth on they are slots."""
    text: bytes = node.ask("CLUSTER", "NODES")
    return [line.split() for line in text.decode().splitlines()]


def _is_in_step(node: RedisProcess) -> bool:
    return bool(_replication(node).get("master_link_status", "up") == "up")


def _master_port(node: RedisProcess) -> int | None:
    """Whom it follows."""
    port = _replication(node).get("master_port")
    return None if port is None else int(port)


def _replication(node: RedisProcess) -> dict[str, Any]:
    answer: dict[str, Any] = node.ask("INFO", "replication")
    return answer
