from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asynqpy.broker.connection import Connection
from asynqpy.broker.keyspace import Keyspace
from asynqpy.broker.scripts import Runner, command, nothing
from asynqpy.errors import BrokerError
from tests.broker.conftest import Deployment


@pytest.fixture
async def connection(deployment: Deployment) -> AsyncIterator[Connection]:
    connection = Connection.open(deployment.url)
    yield connection
    await connection.close()


async def test_every_key_of_every_node_is_found(
    deployment: Deployment, connection: Connection
) -> None:
    runner = Runner(connection)
    names = {f"asynq:{{q{n}}}:pending".encode() for n in range(1500)}
    await runner.run_all([command("LPUSH", name, "t", read=nothing) for name in names])
    await runner.run(command("SET", "other", "1", read=nothing))
    keyspace = Keyspace(runner)
    pages = [page async for page in keyspace.scan(b"asynq:{*}:*")]
    assert {name for page in pages for name in page} == names
    assert len(pages) >= 3
    assert await keyspace.size() == 1501


async def test_nobody_there_is_a_broker_error() -> None:
    connection = Connection.open("redis-cluster://127.0.0.1:1")
    keyspace = Keyspace(Runner(connection))
    with pytest.raises(BrokerError):
        await keyspace.size()
    await connection.close()
