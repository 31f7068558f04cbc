from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.redis_process import HOST
from tests.topologies.sentinel import Replicated, start_replicated


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    with start_replicated(password="s3cret", sentinel_password="watch") as replicated:
        yield replicated


def test_all_know_each_other(replicated: Replicated) -> None:
    assert replicated.master() is replicated.servers[0]
    assert replicated.replicas() == replicated.servers[1:]
    assert len(replicated.processes) == 6


def test_both_kinds_want_their_password(replicated: Replicated) -> None:
    for process in replicated.processes:
        once = Retry(NoBackoff(), 0)
        with (
            redis.Redis(HOST, process.port, retry=once) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_a_replica_takes_over_from_a_dead_master_that_comes_back_as_a_replica(
    replicated: Replicated,
) -> None:
    replicated.master().ask("SET", "key", "value")
    replicated.master().ask("WAIT", "2", "5000")
    dead = replicated.kill_master()
    heir = replicated.wait_for_switch(dead)
    assert heir is not dead
    assert heir.ask("GET", "key") == b"value"
    replicated.restart(dead)
    assert dead.ask("INFO", "replication")["role"] == "slave"
    replicated.wait_until_whole()
    assert {replicated.master(), *replicated.replicas()} == set(replicated.servers)
    assert dead.ask("GET", "key") == b"value"


def test_a_switch_that_was_asked_for_is_awaited(replicated: Replicated) -> None:
    old = replicated.master()
    new = replicated.fail_over()
    assert (new is not old, new) == (True, replicated.master())
    replicated.wait_until_whole()


def test_a_master_that_hangs_is_replaced(replicated: Replicated) -> None:
    hanging = replicated.master()
    hanging.pause()
    assert replicated.wait_for_switch(hanging) is not hanging
    hanging.resume()
    replicated.wait_until_whole()
