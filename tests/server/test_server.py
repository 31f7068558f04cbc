from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from asynqpy.broker import asynq_pb2 as pb
from asynqpy.client import Client
from asynqpy.errors import BrokerAuthError, BrokerError, BrokerUnavailableError, ServerClosedError
from asynqpy.server.server import Server, ServerState
from asynqpy.task import ActiveTask, Task
from tests import single
from tests.eventually import eventually
from tests.redis_process import RedisProcess, free_port, start_redis
from tests.redis_state import ask, counter, dump, message, seed_pending
from tests.server.gate import Gate
from tests.server.parts import returns
from tests.server.servers import a_server, left_behind, serving

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"concurrency": 0}, ValueError, "concurrency must be 1 or more"),
        ({"concurrency": True}, TypeError, "concurrency must be an int, not bool"),
        ({"concurrency": 2.5}, TypeError, "concurrency must be an int, not float"),
        ({"queues": {}}, ValueError, "queues must map at least one name"),
        ({"queues": []}, ValueError, "queues must map at least one name"),
        ({"queues": "default"}, ValueError, "queues must map at least one name"),
        ({"queues": ["low", " "]}, ValueError, "queue name must not be blank"),
        ({"queues": [1]}, TypeError, "queue name must be a str"),
        ({"queues": {" ": 1}}, ValueError, "queue name must not be blank"),
        ({"queues": {1: 1}}, TypeError, "queue name must be a str"),
        ({"queues": {"{a}": 1}}, ValueError, "must not contain braces"),
        ({"queues": {"low": 0}}, ValueError, "the priority of queue 'low' must be 1 or more"),
        ({"queues": {"low": True}}, TypeError, "the priority of queue 'low' must be an int"),
        ({"queues": {"low": "1"}}, TypeError, "the priority of queue 'low' must be an int"),
        ({"shutdown_timeout": -1}, ValueError, "shutdown_timeout must be between"),
        ({"shutdown_timeout": "8s"}, TypeError, "shutdown_timeout must be a timedelta"),
        ({"shutdown_timeout": float("nan")}, ValueError, "shutdown_timeout must be between"),
        ({"task_check_interval": 0}, ValueError, "task_check_interval must be longer than 0"),
        (
            {"delayed_task_check_interval": timedelta(0)},
            ValueError,
            "delayed_task_check_interval must be longer than 0",
        ),
        ({"health_check_interval": 0}, ValueError, "health_check_interval must be longer than 0"),
        ({"janitor_interval": False}, TypeError, "janitor_interval must be a timedelta"),
        ({"queues": ["a", "a"]}, ValueError, "queues names one twice"),
        ({"retry_delay": 5}, TypeError, "retry_delay must be callable, not int"),
        ({"retry_delay": lambda error: 1}, TypeError, "retry_delay is called with"),
        ({"is_failure": True}, TypeError, "is_failure must be callable, not bool"),
        ({"error_handler": lambda error: None}, TypeError, "error_handler is called with"),
        ({"health_check": "ping"}, TypeError, "health_check must be callable, not str"),
        ({"janitor_batch_size": 0}, ValueError, "janitor_batch_size must be 1 or more"),
        ({"janitor_batch_size": 501}, ValueError, "janitor_batch_size must be 500 or less"),
    ],
)
def test_argument_that_makes_no_sense_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Server(NOWHERE, **options)


@pytest.mark.parametrize("queues", [["a", "b"], ("a", "b"), {"a": 1, "b": 1}])
def test_queues_that_are_only_named_have_priority_1(queues: Any) -> None:
    assert "{'a': 1, 'b': 1}" in repr(Server(NOWHERE, queues=queues, janitor_batch_size=500))


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost:6379", "redis://:x@/y"])
def test_url_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Server(url)


@pytest.mark.parametrize("handler", [None, "email", 42])
async def test_handler_that_cannot_be_called_is_refused_and_the_server_stays_new(
    handler: Any,
) -> None:
    server = Server(NOWHERE)
    with pytest.raises(TypeError, match="a handler must be callable"):
        await server.start(handler)
    assert server.state is ServerState.NEW
    await server.shutdown()


async def test_server_passes_through_its_states(redis_url: str) -> None:
    server = a_server(redis_url)
    states = [str(server.state)]
    await server.start(returns)
    states.append(str(server.state))
    await server.stop()
    states.append(str(server.state))
    await server.shutdown()
    states.append(str(server.state))
    assert states == ["new", "active", "stopped", "closed"]


async def test_server_that_runs_is_not_started_again(redis_url: str) -> None:
    async with serving(redis_url, returns) as server:
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start(returns)
        await server.stop()
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start(returns)


async def test_server_that_was_shut_down_is_not_started_again(redis_url: str) -> None:
    async with serving(redis_url, returns) as server:
        pass
    with pytest.raises(ServerClosedError):
        await server.start(returns)


async def test_shutdown_of_a_server_that_never_started_closes_it(redis_url: str) -> None:
    server = a_server(redis_url)
    await server.stop()
    server.abort()
    await server.shutdown()
    await server.shutdown()
    assert server.state is ServerState.CLOSED
    with pytest.raises(ServerClosedError):
        await server.start(returns)


async def test_shutdown_while_the_start_is_under_way_ends_it(redis_url: str) -> None:
    server = a_server(redis_url)
    starting = asyncio.create_task(server.start(returns))
    await asyncio.sleep(0)
    await server.shutdown()
    with pytest.raises(ServerClosedError):
        await starting
    assert left_behind() == []


async def test_shutdown_of_a_start_that_fails_meanwhile_is_final() -> None:
    with start_redis("--requirepass", "secret") as redis:
        server = a_server(f"redis://:wrong@127.0.0.1:{redis.port}/0")
        starting = asyncio.create_task(server.start(returns))
        await asyncio.sleep(0)
        closing = asyncio.create_task(server.shutdown())
        with pytest.raises((BrokerAuthError, ServerClosedError)):
            await starting
        await closing
    assert server.state is ServerState.CLOSED


async def test_stop_while_the_start_is_under_way_lets_it_fetch_nothing(
    redis_url: str, redis: Redis
) -> None:
    gate = Gate()
    await seed_pending(redis, message())
    server = a_server(redis_url)
    starting = asyncio.create_task(server.start(gate))
    await asyncio.sleep(0)
    await server.stop()
    await starting
    await eventually(lambda: ask(redis, "ZCARD", "asynq:servers"))
    await server.shutdown()
    assert gate.started == []


async def test_wrong_password_is_told_at_the_start_and_a_start_may_be_tried_again() -> None:
    with start_redis("--requirepass", "secret") as redis:
        server = a_server(f"redis://:wrong@127.0.0.1:{redis.port}/0")
        for _ in range(2):
            with pytest.raises(BrokerAuthError, match="refused these credentials"):
                await server.start(returns)
        assert server.state is ServerState.NEW
        with pytest.raises(BrokerAuthError):
            await server.run(returns)
        await server.shutdown()


async def test_server_started_without_redis_keeps_trying_and_works_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asynqpy.server.service._FIRST_BACK_OFF", 0.02)
    caplog.set_level(logging.INFO, "asynqpy.server")
    port, handled = free_port(), []

    async def handler(task: ActiveTask) -> None:
        handled.append(task.type)

    url = f"redis://127.0.0.1:{port}/0"
    async with serving(url, handler) as server:
        with pytest.raises(BrokerUnavailableError):
            await server.ping()
        assert "the server starts without Redis and keeps trying" in caplog.text
        with start_redis(port=port):
            async with Client(url) as client:
                await client.enqueue(Task("email:welcome"))
            await eventually(lambda: handled == ["email:welcome"])
            await server.ping()
            await server.shutdown()


async def test_server_survives_a_restart_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asynqpy.server.service._FIRST_BACK_OFF", 0.02)
    port, handled = free_port(), []

    async def handler(task: ActiveTask) -> None:
        handled.append(task.type)

    async def enqueue(task_type: str) -> None:
        async with Client(url) as client:
            await client.enqueue(Task(task_type))
        await eventually(lambda: handled[-1:] == [task_type])

    url = f"redis://127.0.0.1:{port}/0"
    first = start_redis(port=port)
    async with serving(url, handler) as server:
        await enqueue("before")
        first.kill()
        with start_redis(port=port):
            await enqueue("after")
            await server.shutdown()


async def test_server_lives_in_the_lifespan_of_a_web_app(redis_url: str) -> None:
    gate = Gate()
    gate.open()

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Client]:
        async with Client(redis_url) as client, a_server(redis_url).running(gate):
            yield client

    async with lifespan(object()) as client:
        info = await client.enqueue(Task("email:welcome"))
        await eventually(lambda: gate.started == [info.id])
    assert left_behind() == []


async def test_error_in_the_block_shuts_the_server_down_and_comes_through(redis_url: str) -> None:
    with pytest.raises(LookupError, match="a fault of the app"):
        async with serving(redis_url, returns) as server:
            raise LookupError("a fault of the app")
    assert server.state is ServerState.CLOSED
    assert left_behind() == []


async def test_run_ends_when_the_server_is_shut_down(redis_url: str, redis: Redis) -> None:
    server = a_server(redis_url)
    running = asyncio.create_task(server.run(returns))
    await eventually(lambda: ask(redis, "ZCARD", "asynq:servers"))
    await server.shutdown()
    await running
    assert left_behind() == []


async def test_run_that_is_cancelled_shuts_down_first(redis_url: str, redis: Redis) -> None:
    server = a_server(redis_url)
    running = asyncio.create_task(server.run(returns))
    await eventually(lambda: ask(redis, "ZCARD", "asynq:servers"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.state is ServerState.CLOSED
    assert left_behind() == []


async def test_client_of_the_caller_is_used_and_stays_open(redis: Redis) -> None:
    gate = Gate()
    gate.open()
    await seed_pending(redis, message())
    async with serving(redis, gate):
        await eventually(lambda: gate.started == ["t1"])
    assert await ask(redis, "PING")
    assert await counter(redis, "processed") == 1


async def test_presence_shows_the_server_while_it_runs_and_not_after(
    redis_url: str, redis: Redis
) -> None:
    queues = {"critical": 6, "low": 2}
    async with serving(redis_url, returns, concurrency=7, queues=queues, strict_priority=True):
        await eventually(lambda: ask(redis, "KEYS", "asynq:servers:*"))
        (name,) = await ask(redis, "KEYS", "asynq:servers:*")
        info = pb.ServerInfo()
        info.ParseFromString(await ask(redis, "GET", name))
    assert (info.concurrency, dict(info.queues)) == (7, queues)
    assert (info.strict_priority, info.status) == (True, "active")
    assert f"{info.host}:{info.pid}:{info.server_id}" in name.decode()
    assert info.start_time.ToSeconds() > 1_700_000_000
    assert await dump(redis, "asynq:servers*") == {}


async def test_health_check_is_told_how_redis_is(redis_url: str) -> None:
    told: list[BrokerError | None] = []
    async with serving(redis_url, returns, health_check=told.append, health_check_interval=0.01):
        await eventually(lambda: len(told) >= 2)
    assert set(told) == {None}


@single.COUNTED
async def test_nothing_is_left_of_ten_servers_of_one_process(
    redis_url: str, redis_server: RedisProcess
) -> None:
    tasks = asyncio.all_tasks()
    for _ in range(10):
        async with serving(redis_url, returns):
            pass
    assert left_behind() == []
    assert asyncio.all_tasks() == tasks
    clients = redis_server.ask("CLIENT LIST")
    assert len(clients) == 1


def test_repr_tells_state_load_and_queues_but_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server("redis://:s3cret@127.0.0.1:1/0", queues={"low": 1})
    assert "new, 0 of 10 running, {'low': 1}" in repr(server)
    assert "s3cret" not in repr(server) + caplog.text
