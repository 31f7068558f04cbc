"""B29: a cluster moves the slot of a queue, key by key, while its workers go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asynqpy import Client, Task
from asynqpy.broker.broker import Broker
from asynqpy.clock import Clock
from asynqpy.errors import BrokerError
from tests.eventually import eventually
from tests.redis_process import HOST, ClusterProcesses, RedisProcess, start_cluster
from tests.regressions.histories import closing
from tests.server.parts import a_recoverer
from tests.server.servers import serving

#: Of every key of the queue ``default``; the first of two nodes has it.
SLOT = "5718"

PREFIX = "asynq:{default}:"


class Move:
    """The slot on its way from one node to the other."""

    def __init__(self, cluster: ClusterProcesses) -> None:
        self.source, self.target = cluster.nodes

    def begin(self) -> None:
        self.target.ask("CLUSTER SETSLOT", SLOT, "IMPORTING", _id(self.source))
        self.source.ask("CLUSTER SETSLOT", SLOT, "MIGRATING", _id(self.target))

    def carry(self, *names: str) -> None:
        for name in names:
            self.source.ask("MIGRATE", HOST, str(self.target.port), name, "0", "5000")

    def end(self) -> None:
        self.carry(*self.left())
        for node in (self.target, self.source):
            node.ask("CLUSTER SETSLOT", SLOT, "NODE", _id(self.target))

    def left(self) -> list[str]:
        """The keys that the source still has."""
        return sorted(_text(key) for key in self.source.ask("CLUSTER GETKEYSINSLOT", SLOT, "999"))

    def values(self) -> dict[str, Any]:
        return {name: self.source.ask("DUMP", name) for name in self.left()}


def _id(node: RedisProcess) -> str:
    return _text(node.ask("CLUSTER MYID"))


def _text(answer: str | bytes) -> str:
    return answer if isinstance(answer, str) else answer.decode()


@pytest.fixture
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster(2) as processes:
        yield processes


async def test_b29_a_task_whose_hash_has_gone_ahead_to_another_node_is_not_lost(
    cluster: ClusterProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asynq's scripts write a bare hash where the slot was: the task is a ghost there, and an orphan here."""
    monkeypatch.setattr("asynqpy.server.watch._PATIENCE", 0.0)
    move = Move(cluster)
    async with Client(cluster.url) as client, closing(Broker(cluster.url, Clock())) as broker:
        for task_id in ("leased", "waiting"):
            await client.enqueue(Task("email"), task_id=task_id)
        await client.enqueue(Task("email"), task_id="due", process_in=3600)
        await client.enqueue(Task("email"), task_id="grouped", group="g")
        await broker.dequeue({"default": 1})
        move.source.ask("ZADD", PREFIX + "scheduled", "XX", "1000", "due")
        move.source.ask("ZADD", PREFIX + "lease", "XX", "1000", "leased")
        # With each container there, scripts would not be told to try again for the lack of one.
        move.source.ask("ZADD", "asynqpy:{default}:quarantine", "1", "old")
        move.source.ask("ZADD", PREFIX + "retry", "4000000000", "later")
        move.begin()
        move.carry(*(f"{PREFIX}t:{name}" for name in ("leased", "waiting", "due")))
        before = move.values()
        turn = await broker.dequeue({"default": 5})
        assert (turn.deliveries, list(turn.errors)) == ([], ["default"])
        with pytest.raises(BrokerError):
            await broker.forward(["default"])
        recoverer = a_recoverer(broker)
        await recoverer.tick()
        await recoverer.tick()
        assert move.values() == before

    move.end()
    move.target.ask("ZREM", PREFIX + "retry", "later")
    worked: list[str] = []
    async with serving(cluster.url, lambda task: worked.append(task.id)):
        await eventually(lambda: len(worked) == 3, within=15)
    assert sorted(worked) == ["due", "leased", "waiting"]
