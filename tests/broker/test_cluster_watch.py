from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from asynqpy.broker import cluster_watch as module
from asynqpy.broker import key_watch
from asynqpy.broker.cluster_watch import ClusterWatch, watch_of
from asynqpy.broker.connection import Connection
from asynqpy.broker.key_watch import KeyWatch
from asynqpy.broker.slots import slot_of
from asynqpy.errors import BrokerError
from tests.eventually import eventually
from tests.redis_process import HOST, free_port
from tests.topologies.cluster import ClusterProcesses, start_cluster
from tests.topologies.moving_slot import MovingSlot

KEYS = [f"{{{n}}}:key" for n in range(30)]

pytestmark = pytest.mark.usefixtures("empty_cluster")


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is done now and then is done at once."""
    monkeypatch.setattr(module, "_LOOK_AFTER", 0.02)
    monkeypatch.setattr(module, "_OPEN_AGAIN", 0.05)
    monkeypatch.setattr(module, "_ASK_AGAIN", 0.05)
    monkeypatch.setattr(key_watch, "_LOOK_AFTER", 0.05)
    monkeypatch.setattr(key_watch, "_CHECK_AFTER", 0.1)


async def keep_open(watch: ClusterWatch) -> None:
    """As the server's waker does."""
    while True:
        try:
            with suppress(BrokerError):
                await watch.open()
                await watch.run()
        finally:
            await watch.close()


@asynccontextmanager
async def watching(url: str, *names: str) -> AsyncIterator[tuple[Connection, ClusterWatch]]:
    connection = Connection.open(url)
    watch = watch_of(connection)
    assert isinstance(watch, ClusterWatch)
    watch.on_news(names, lambda key, exists: None)
    job = asyncio.create_task(keep_open(watch))
    try:
        await eventually(lambda: watch.is_live)
        yield connection, watch
    finally:
        job.cancel()
        await asyncio.wait([job])
        await connection.close()


def owner_port(watch: ClusterWatch, key: str) -> int | None:
    owner = watch._slots.owners[slot_of(key)]
    return owner and owner.port


def test_a_single_redis_has_a_single_watch() -> None:
    assert isinstance(watch_of(Connection.open(f"redis://{HOST}:{free_port()}")), KeyWatch)


async def test_keys_of_all_nodes_are_known_and_their_changes_told(
    cluster: ClusterProcesses,
) -> None:
    async with watching(cluster.url) as (connection, watch):
        assert await watch.absent(KEYS) == set(KEYS)
        assert {watch.exists(key) for key in KEYS} == {False}
        await connection.exchange.send([("SET", key, "1") for key in KEYS[::2]])
        await eventually(lambda: all(watch.exists(key) is None for key in KEYS[::2]))
        assert {watch.exists(key) for key in KEYS[1::2]} == {False}
        watch.ask(KEYS)
        await eventually(lambda: all(watch.exists(key) is True for key in KEYS[::2]))
    assert watch.exists(KEYS[1]) is None
    assert not watch.is_live


async def test_listeners_hear_of_their_keys_on_any_node(cluster: ClusterProcesses) -> None:
    heard: list[tuple[str, bool | None]] = []
    connection = Connection.open(cluster.url)
    watch = watch_of(connection)
    watch.on_news(KEYS, lambda key, exists: heard.append((key, exists)))
    await watch.open()
    heard.clear()
    watch.ask(KEYS)
    await eventually(lambda: len(heard) == len(KEYS))
    assert sorted(heard) == sorted((key, False) for key in KEYS)
    heard.clear()
    await watch.close()
    assert sorted(heard) == sorted((key, None) for key in KEYS)
    await connection.close()


async def test_a_mark_is_another_after_any_change(cluster: ClusterProcesses) -> None:
    async with watching(cluster.url) as (connection, watch):
        assert watch.mark(KEYS) is None
        await watch.absent(KEYS)
        marks = [watch.mark(KEYS)]
        for key in KEYS[:3]:
            await connection.exchange.send([("SET", key, "1")])
            await eventually(lambda: watch.mark(KEYS) is None)
            watch.ask(KEYS)
            await eventually(lambda: watch.mark(KEYS) is not None)
            marks.append(watch.mark(KEYS))
        assert len(set(marks)) == 4


async def test_a_mark_does_not_come_again_after_the_watch_was_opened_anew(
    cluster: ClusterProcesses,
) -> None:
    connection = Connection.open(cluster.url)
    watch = watch_of(connection)
    marks = set()
    for _ in range(3):
        await watch.open()
        await watch.absent([KEYS[0]])
        marks.add(watch.mark([KEYS[0]]))
        await watch.close()
    assert len(marks) == 3
    assert None not in marks
    await connection.close()


@pytest.mark.usefixtures("prompt")
async def test_a_slot_that_moves_without_a_key_in_it_is_watched_where_it_is() -> None:
    with start_cluster() as cluster:
        async with watching(cluster.url) as (_, watch):
            await watch.absent(KEYS[:1])
            source = cluster.primary_of(KEYS[0])
            target, other = (it for it in cluster.nodes if it is not source)
            move = MovingSlot(slot_of(KEYS[0]), source, target, [other])
            move.begin()
            move.end()

            async def is_known_where_it_is() -> bool:
                # Whoever was asked for the slots may have heard of it late.
                is_known = KEYS[0] in await watch.absent(KEYS[:1])
                return is_known and owner_port(watch, KEYS[0]) == target.port

            await eventually(is_known_where_it_is, within=30)
            target.ask("SET", KEYS[0], "1")
            await eventually(lambda: watch.exists(KEYS[0]) is not False)


@pytest.mark.usefixtures("prompt")
async def test_while_a_node_is_away_the_others_are_watched() -> None:
    with start_cluster(3, 0, "--cluster-require-full-coverage", "no") as cluster:
        async with watching(cluster.url) as (connection, watch):
            await watch.absent(KEYS)
            dead = cluster.kill_primary_of(KEYS[0])
            its = [key for key in KEYS if watch._of(key) is watch._of(KEYS[0])]
            await eventually(lambda: all(watch.exists(key) is None for key in its))
            assert not watch.is_live
            rest = [key for key in KEYS if key not in its]
            assert {watch.exists(key) for key in rest} == {False}
            await connection.exchange.send([("SET", rest[0], "1")])
            await eventually(lambda: watch.exists(rest[0]) is None)
            dead.start_again()
            await eventually(lambda: watch.is_live)
            assert KEYS[0] in await watch.absent(KEYS)
