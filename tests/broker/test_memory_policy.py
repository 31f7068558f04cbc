from __future__ import annotations

import pytest

from asynqpy.broker.broker import Broker
from asynqpy.broker.memory_policy import MemoryPolicy
from tests.broker.conftest import Deployment


def test_the_answer_is_read_as_redis_py_parses_it_or_as_redis_gives_it() -> None:
    expected = MemoryPolicy("allkeys-lru", 1024)
    assert MemoryPolicy.of({"maxmemory": 1024, "maxmemory_policy": "allkeys-lru"}) == expected
    raw = b"# Memory\r\nmaxmemory:1024\r\nmaxmemory_policy:allkeys-lru\r\n"
    assert MemoryPolicy.of(raw) == expected


@pytest.mark.parametrize("answer", [{}, b"", None, {"used_memory": 1}])
def test_an_answer_that_does_not_tell_is_none(answer: object) -> None:
    assert MemoryPolicy.of(answer) is None


def test_noeviction_is_no_danger() -> None:
    assert MemoryPolicy("noeviction", 1024).danger() == ""


@pytest.mark.parametrize(
    ("policy", "victims"), [("allkeys-lru", "tasks, leases"), ("volatile-ttl", "unique locks")]
)
def test_the_danger_names_what_is_lost_and_the_cure(policy: str, victims: str) -> None:
    danger = MemoryPolicy(policy, 1024).danger()
    assert policy in danger
    assert victims in danger
    assert "Once maxmemory (1,024 bytes) is reached" in danger
    assert "Set maxmemory-policy to noeviction" in danger


def test_without_a_limit_the_danger_is_one_to_come() -> None:
    assert "nothing is evicted yet" in MemoryPolicy("allkeys-lru", 0).danger()


async def test_every_server_that_holds_data_is_asked(deployment: Deployment) -> None:
    broker = Broker(deployment.url)
    try:
        deployment.servers[-1].ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        policies = [each.policy for each in await broker.memory_policies()]
        assert len(policies) == len(deployment.servers)
        assert policies.count("volatile-lru") == 1
    finally:
        deployment.servers[-1].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await broker.close()
