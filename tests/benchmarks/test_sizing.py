from __future__ import annotations

import pytest

from benchmarks import sizing
from benchmarks.harness.deployments import cluster, sentinel
from benchmarks.harness.redis_server import BenchRedis, standalone


async def test_the_bytes_of_a_task_grow_with_its_payload() -> None:
    small, large, _, unique = sizing.KINDS.values()
    with BenchRedis() as server:
        of_small = await sizing.bytes_of(server, small, 500)
        assert 900 < await sizing.bytes_of(server, large, 500) - of_small < 1_500
        assert await sizing.bytes_of(server, unique, 500) > of_small > 100


async def test_connections_are_those_of_the_user_alone() -> None:
    with standalone() as running:
        client = sizing.idle_client
        assert await sizing.connections(running, client) == "1"
        assert await sizing.connections(running, client) == "1"


@pytest.mark.parametrize(("start", "parts"), [(sentinel, (1, 3)), (cluster, (3,))])
async def test_connections_are_told_of_each_server(
    start: sizing.Start, parts: tuple[int, ...]
) -> None:
    with start() as running:
        text = await sizing.connections(running, sizing.idle_client)
    found = [group.split("+") for group in text.split(" and ")]
    assert tuple(map(len, found)) == parts
    assert int(found[0][0]) >= 1
