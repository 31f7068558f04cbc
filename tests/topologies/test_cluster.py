from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.cluster import RedisCluster
from redis.exceptions import AskError, MovedError

from tests.redis_process import HOST
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

KEY = "asynq:{default}:pending"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterProcesses]:
    with start_cluster(3, 1) as cluster:
        yield cluster


def test_each_primary_has_its_replica(cluster: ClusterProcesses) -> None:
    primaries = cluster.nodes[:3]
    assert cluster.primaries() == primaries
    assert [cluster.replicas_of(primary) for primary in primaries] == [
        [replica] for replica in cluster.nodes[3:]
    ]


def test_the_primary_of_a_queue_has_its_keys(cluster: ClusterProcesses) -> None:
    primary = cluster.primary_of_queue("default")
    assert primary is cluster.primary_of(KEY)
    primary.ask("RPUSH", KEY, "t1")
    with pytest.raises(MovedError):
        next(node for node in cluster.primaries() if node is not primary).ask("LLEN", KEY)
    primary.ask("DEL", KEY)


def test_a_replica_takes_over_from_a_dead_primary_that_comes_back_as_a_replica(
    cluster: ClusterProcesses,
) -> None:
    primary = cluster.primary_of(KEY)
    primary.ask("SET", KEY, "value")
    primary.ask("WAIT", "1", "5000")
    assert cluster.kill_primary_of(KEY) is primary
    heir = cluster.wait_for_heir(primary, KEY)
    assert heir.ask("GET", KEY) == b"value"
    cluster.restart(primary)
    cluster.wait_until_whole()
    assert cluster.replicas_of(heir) == [primary]
    heir.ask("DEL", KEY)


def test_a_primary_that_is_well_hands_over_when_asked(cluster: ClusterProcesses) -> None:
    old = cluster.primary_of(KEY)
    heir = cluster.fail_over(old)
    assert cluster.wait_for_heir(old, KEY) is heir
    cluster.wait_until_whole()


def test_a_slot_moves_key_by_key(cluster: ClusterProcesses) -> None:
    names = [f"{KEY}:{n}" for n in range(5)]
    source = cluster.primary_of(KEY)
    target, other = (node for node in cluster.primaries() if node is not source)
    with RedisCluster(HOST, source.port) as client:
        for name in names:
            client.set(name, "value")
        move = MovingSlot(cluster.slot_of(KEY), source, target, [other])
        move.begin()
        move.carry(*names[:2])
        assert move.left() == names[2:]
        with pytest.raises(AskError):
            source.ask("GET", names[0])
        move.end()
        assert cluster.wait_for_heir(source, KEY) is target
        assert [target.ask("GET", name) for name in names] == [b"value"] * 5
        client.delete(*names)
