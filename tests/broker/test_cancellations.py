from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from asynqpy.broker import cancellations
from asynqpy.broker.broker import Broker
from asynqpy.broker.cancellations import Cancellations
from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_url import Endpoint
from asynqpy.errors import BrokerUnavailableError
from tests import redis_state as state
from tests import single
from tests.broker.conftest import Deployment
from tests.broker.cut_short import left_open
from tests.eventually import eventually
from tests.fake_clock import FakeClock
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.redis_proxy import RedisProxy


@pytest.fixture
async def subscription(broker: Broker) -> AsyncIterator[Cancellations]:
    subscription = broker.cancellations()
    await subscription.open()
    yield subscription
    await subscription.close()


async def publish(redis: Redis, message: str | bytes) -> None:
    """As the CLI and asynqmon do it: the bare id."""
    assert await state.ask(redis, "PUBLISH", "asynq:cancel", message) == 1


async def test_ids_arrive_in_the_order_in_which_they_were_published(
    subscription: Cancellations, redis: Redis
) -> None:
    for task_id in ("a", "b", "c"):
        await publish(redis, task_id)
    assert [await subscription.next() for _ in range(3)] == ["a", "b", "c"]


async def test_an_id_that_is_no_text_matches_no_task_and_breaks_nothing(
    subscription: Cancellations, redis: Redis
) -> None:
    await publish(redis, b"\xff")
    await publish(redis, "a")
    assert [await subscription.next() for _ in range(2)] == ["\N{REPLACEMENT CHARACTER}", "a"]


async def test_what_a_broker_publishes_arrives(deployment: Deployment, clock: FakeClock) -> None:
    broker = Broker(deployment.url, clock)
    subscription = broker.cancellations()
    await subscription.open()
    await broker.publish_cancel("t1")
    assert await subscription.next() == "t1"
    await subscription.close()
    await broker.close()


@single.COUNTED
async def test_the_broker_tells_how_many_servers_heard_it(
    broker: Broker, other_broker: Broker
) -> None:
    assert await broker.publish_cancel("t1") == 0
    subscriptions = [b.cancellations() for b in (broker, other_broker)]
    for subscription in subscriptions:
        await subscription.open()
    assert await broker.publish_cancel("t1") == 2
    for subscription in subscriptions:
        await subscription.close()


@single.COUNTED
async def test_silence_is_bridged_by_asking_for_a_sign_of_life(
    subscription: Cancellations, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations, "_PING_AFTER", 0.01)
    await state.ask(redis, "CONFIG", "RESETSTAT")
    listening = asyncio.create_task(subscription.next())

    async def was_pinged_often() -> bool:
        statistics = await state.ask(redis, "INFO", "commandstats")
        return bool(statistics.get("cmdstat_ping", {"calls": 0})["calls"] >= 3)

    assert await eventually(was_pinged_often)
    await publish(redis, "a")
    assert await listening == "a"


async def test_an_end_that_fell_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "_PING_AFTER", 0.05)
    with start_redis() as server:
        broker = Broker(server.url)
        subscription = broker.cancellations()
        await subscription.open()
        server.ask("CLIENT", "PAUSE", "60000", "ALL")
        with pytest.raises(BrokerUnavailableError, match="fell silent on the cancel channel"):
            await subscription.next()
        await subscription.close()
        await broker.close()
        server.kill()


async def test_a_subscription_does_not_outlive_a_switch_to_another_master(
    subscription: Cancellations, broker: Broker
) -> None:
    broker._connection.breaker.moved("another master, told to a listener")
    with pytest.raises(BrokerUnavailableError, match="may be another now"):
        async with asyncio.timeout(5):
            await subscription.next()
    await broker.ping()
    await subscription.close()
    await subscription.open()


async def test_a_switch_while_a_subscription_is_made_ends_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription, honest = broker.cancellations(), PubSub.subscribe

    async def subscribe(pubsub: PubSub, *channels: str) -> None:
        broker._connection.breaker.moved("another master, told meanwhile")
        await honest(pubsub, *channels)

    monkeypatch.setattr(PubSub, "subscribe", subscribe)
    with pytest.raises(BrokerUnavailableError, match="may be another now"):
        await subscription.open()
    await subscription.close()
    await broker.ping()


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
async def test_a_node_that_has_left_its_cluster_is_left(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations, "_PING_AFTER", 0.2)
    connection = Connection.open(deployment.url)
    subscription = Cancellations(connection)
    await subscription.open()
    assert connection.cluster is not None
    everybody, looks = await connection.cluster.all_nodes(), count(1)

    async def all_nodes() -> list[Endpoint]:
        has_left = next(looks) > 2
        return [it for it in everybody if not has_left or it != subscription._node]

    monkeypatch.setattr(connection.cluster, "all_nodes", all_nodes)
    with pytest.raises(BrokerUnavailableError, match="has left its cluster"):
        async with asyncio.timeout(5):
            await subscription.next()
    assert next(looks) == 4
    await subscription.close()
    await connection.close()


async def test_an_end_that_never_confirms_the_subscription_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancellations, "_PING_AFTER", 0.05)
    async with await asyncio.start_server(_swallow, HOST, 0) as mute:
        port = mute.sockets[0].getsockname()[1]
        broker = Broker(f"redis://{HOST}:{port}/0")
        subscription = broker.cancellations()
        with pytest.raises(BrokerUnavailableError):
            async with asyncio.timeout(5):
                await subscription.open()
        await subscription.close()
        await broker.close()


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        commands = data.count(b"CLIENT")  # what a client introduces itself with
        writer.write(b"+OK\r\n" * commands)
    writer.close()


async def test_a_broken_connection_is_an_error_and_the_next_subscription_works(
    broker: Broker, subscription: Cancellations, redis: Redis
) -> None:
    await state.ask(redis, "CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(BrokerUnavailableError):
        await subscription.next()
    await subscription.close()
    await subscription.open()
    await publish(redis, "a")
    assert await subscription.next() == "a"


async def test_a_redis_that_is_away_is_an_error() -> None:
    broker = Broker(f"redis://{HOST}:{free_port()}/0")
    subscription = broker.cancellations()
    with pytest.raises(BrokerUnavailableError):
        await subscription.open()
    await subscription.close()
    await broker.close()


@single.COUNTED
async def test_closing_gives_the_connection_up_and_may_be_repeated(
    broker: Broker, subscription: Cancellations, redis: Redis
) -> None:
    await subscription.close()
    await subscription.close()

    async def is_gone() -> bool:
        return bool(await state.ask(redis, "PUBSUB", "CHANNELS") == [])

    assert await eventually(is_gone)
    await broker.ping()


async def test_a_subscription_that_was_never_opened_can_be_closed(broker: Broker) -> None:
    await broker.cancellations().close()


@single.PROXIED
async def test_while_redis_is_known_to_be_away_no_subscription_is_tried(
    redis_server: RedisProcess, redis_url: str
) -> None:
    async with RedisProxy.before(redis_server) as proxy:
        proxy.refuses = True
        broker = Broker(proxy.url)
        subscription = broker.cancellations()
        for _ in range(2):
            with pytest.raises(BrokerUnavailableError):
                await subscription.open()
        assert proxy.connections <= 5
        proxy.refuses = False
        await subscription.open()
        await subscription.close()
        await broker.close()


@pytest.mark.parametrize(
    ("deployment", "moments"),
    [("single", range(0, 60, 2)), ("sentinel", range(0, 120, 4)), ("cluster", range(0, 120, 8))],
    indirect=["deployment"],
)
async def test_nothing_stays_open_when_opening_and_then_closing_are_cancelled(
    deployment: Deployment, moments: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hold(connection: Connection) -> None:
        subscription = Cancellations(connection)
        try:
            await subscription.open()
            await subscription.next()
        finally:
            await subscription.close()

    assert await left_open(hold, deployment.url, moments, monkeypatch) == []
