"""What ``min_replicas`` is for: the master is lost, and what was acknowledged is not."""

from __future__ import annotations

import asyncio

import pytest

from asynqpy import BrokerError, Client, NotReplicatedError, Task
from asynqpy.broker import keys
from tests.eventually import eventually
from tests.topologies.sentinel import start_replicated


async def enqueue_until_refused(client: Client, name: str, acknowledged: list[str]) -> None:
    for number in range(10_000):
        try:
            info = await client.enqueue(Task("t"), task_id=f"{name}-{number}")
        except BrokerError:
            return
        acknowledged.append(info.id)


async def acknowledged_until_the_master_dies(url: str, die: asyncio.Event) -> list[str]:
    acknowledged: list[str] = []
    async with Client(url, min_replicas=2) as client:
        callers = [
            asyncio.create_task(enqueue_until_refused(client, f"c{n}", acknowledged))
            for n in range(20)
        ]
        await eventually(lambda: len(acknowledged) >= 500, within=30)
        die.set()
        await asyncio.gather(*callers)
    return acknowledged


async def test_every_task_that_all_replicas_confirmed_outlives_the_master() -> None:
    asyncio.get_running_loop().set_debug(False)
    with start_replicated(2, 3) as replicated:
        die = asyncio.Event()
        work = asyncio.create_task(acknowledged_until_the_master_dies(replicated.url, die))
        await die.wait()
        old = replicated.kill_master()
        acknowledged = await work
        new = replicated.wait_for_switch(old)
        assert new is not old
        stored = set(new.ask("LRANGE", keys.pending("default"), "0", "-1"))
        assert len(acknowledged) >= 500
        assert [it for it in acknowledged if it.encode() not in stored] == []
        async with Client(replicated.url, min_replicas=2, replication_timeout=0.1) as client:
            with pytest.raises(NotReplicatedError) as caught:  # there is one replica left
                await client.enqueue(Task("t"))
    assert caught.value.wanted == 2
