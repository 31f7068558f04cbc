from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError, TimeoutError

from asynqpy.broker import cluster_node as module
from asynqpy.broker.cluster_node import ClusterNode
from asynqpy.broker.redis_client import ClusterPlan
from asynqpy.broker.redis_url import Endpoint
from tests import single
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess
from tests.redis_proxy import RedisProxy

pytestmark = single.PROXIED_PLAIN


@pytest.fixture
async def proxy(redis_server: RedisProcess) -> AsyncIterator[RedisProxy]:
    async with RedisProxy.before(redis_server) as proxy:
        yield proxy


def node_at(port: int) -> ClusterNode:
    endpoint = Endpoint(HOST, port)
    plan = ClusterPlan("nodes", (endpoint,), {"socket_timeout": 0.3})
    return ClusterNode(endpoint, plan.one_node(endpoint))


async def is_refused(node: ClusterNode) -> bool:
    try:
        await node.send([("PING",)])
    except ConnectionError:
        return True
    return False


async def test_a_node_that_is_away_is_refused_at_once_and_asked_now_and_then(
    proxy: RedisProxy,
) -> None:
    node = node_at(proxy.port)
    proxy.swallows_requests = True
    with pytest.raises(TimeoutError):
        await node.send([("PING",)])
    assert node.is_away
    attempts = proxy.connections
    for _ in range(20):
        with pytest.raises(ConnectionError, match=f"not connecting to {HOST}:{proxy.port}"):
            await node.send([("PING",)])
    assert proxy.connections == attempts
    await node.close()


async def test_what_went_wrong_is_known_before_anybody_waits_for_the_answer(
    proxy: RedisProxy,
) -> None:
    node = node_at(proxy.port)
    await node.send([("PING",)])
    proxy.swallows_requests = True
    answer = node.begin([("PING",)])
    await eventually(lambda: node.is_away)
    assert node.begin([("PING",)]) is None
    assert answer is not None
    with pytest.raises(TimeoutError):
        await answer
    await node.close()


async def test_a_question_is_no_sign_of_life(proxy: RedisProxy) -> None:
    node = node_at(proxy.port)
    await node.send([("PING",)])
    heard_at = node.heard_at
    assert heard_at > 0
    proxy.swallows_requests = True
    answers = [node.begin([("SET", "k", b"x" * size)]) for size in (1, 8_000_000)]
    assert [answer is None for answer in answers] == [False, True]  # the second has to connect
    await asyncio.sleep(0)
    assert node.heard_at == heard_at
    await node.close()


async def test_a_node_that_is_back_is_found(
    proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN", 0.05)
    node = node_at(proxy.port)
    proxy.swallows_requests = True
    with pytest.raises(TimeoutError):
        await node.send([("PING",)])
    proxy.swallows_requests = False

    async def is_back() -> bool:
        return not await is_refused(node)

    await eventually(is_back)
    assert not node.is_away
    await node.close()


async def test_a_connection_that_breaks_is_no_absence(proxy: RedisProxy) -> None:
    node = node_at(proxy.port)
    await node.send([("PING",)])
    proxy.loses_replies = True
    assert await is_refused(node)
    assert not node.is_away
    proxy.loses_replies = False
    assert await node.send([("ECHO", "here")]) == [b"here"]
    await node.close()


async def test_closing_leaves_no_question_behind(
    proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASK_AGAIN", 0.0)
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    node = node_at(proxy.port)
    proxy.swallows_requests = True
    with pytest.raises(TimeoutError):
        await node.send([("PING",)])
    assert await is_refused(node)
    asking = [it for it in asyncio.all_tasks() if it.get_name().startswith("asynqpy:node:")]
    assert len(asking) == 1
    await node.close()
    assert asking[0].done()
