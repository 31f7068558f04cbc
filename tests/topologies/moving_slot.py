"""A slot of a cluster on its way from one node to another, key by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.redis_process import HOST, RedisProcess
from tests.topologies.cluster import node_id


class MovingSlot:
    """A move that its caller takes step by step: ``begin``, ``carry`` what is to go, ``end``.

    ``others`` are the other primaries, which ``end`` tells; untold, they learn it in time.
    """

    def __init__(
        self,
        slot: int,
        source: RedisProcess,
        target: RedisProcess,
        others: Sequence[RedisProcess] = (),
    ) -> None:
        self.source = source
        self.target = target
        self._slot = str(slot)
        self._others = others

    def begin(self) -> None:
        self.target.ask("CLUSTER SETSLOT", self._slot, "IMPORTING", node_id(self.source))
        self.source.ask("CLUSTER SETSLOT", self._slot, "MIGRATING", node_id(self.target))

    def carry(self, *names: str) -> None:
        """Take keys to the target. Who asks the source for them is sent there by ``ASK``."""
        for name in names:
            self.source.ask("MIGRATE", HOST, str(self.target.port), name, "0", "5000")

    def end(self) -> None:
        """Carry what is left and make the target the owner."""
        while left := self.left():
            self.carry(*left)
        for node in (self.target, self.source, *self._others):
            node.ask("CLUSTER SETSLOT", self._slot, "NODE", node_id(self.target))

    def left(self) -> list[str]:
        """The keys that the source still has; of many, the first 1000."""
        keys = self.source.ask("CLUSTER GETKEYSINSLOT", self._slot, "1000")
        return sorted(key if isinstance(key, str) else key.decode() for key in keys)

    def values(self) -> dict[str, Any]:
        """What the source still has, as ``DUMP`` has it."""
        return {name: self.source.ask("DUMP", name) for name in self.left()}
