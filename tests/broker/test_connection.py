from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as synchronous
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import AuthenticationError, RedisError

from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import Connection
from asynqpy.broker.redis_client import SOCKET_TIMEOUT
from tests import single
from tests.broker.conftest import Deployment
from tests.eventually import eventually
from tests.redis_process import (
    HOST,
    RedisProcess,
    free_port,
    start_redis,
)
from tests.topologies.cluster import ClusterProcesses
from tests.topologies.sentinel import start_sentinel
from tests.topologies.tls import make_certificates, start_tls_redis

PASSWORD = "p@ss/w:rd"
ENCODED = "p%40ss%2Fw%3Ard"


async def write_and_read(connection: Connection) -> bytes:
    await connection.exchange.send([("SET", "key", "value")])
    return await read(connection)


async def read(connection: Connection) -> bytes:
    (value,) = await connection.exchange.send([("GET", "key")])
    assert isinstance(value, bytes)
    return value


async def use(url: str) -> bytes:
    connection = Connection.open(url)
    try:
        return await write_and_read(connection)
    finally:
        await connection.close()


async def refusal(use: Awaitable[object]) -> str:
    """All that Python shows of the error, with its causes."""
    with pytest.raises(RedisError) as refused:
        await use
    return "".join(traceback.format_exception(refused.value))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis with a password, a user ``ann`` with another, and a unix socket."""
    folder = tmp_path_factory.mktemp("guarded")
    acl = ("--user", "ann", "on", ">s3cret", "~*", "&*", "+@all")
    with start_redis(
        "--requirepass", PASSWORD, *acl, "--unixsocket", "redis.sock", cwd=folder
    ) as server:
        yield server


async def test_every_shape_of_redis_is_reached(deployment: Deployment) -> None:
    assert await use(deployment.url) == b"value"


async def test_a_password_or_a_user_opens_redis(guarded: RedisProcess) -> None:
    assert await use(f"redis://:{ENCODED}@{guarded.address}") == b"value"
    assert await use(f"redis://ann:s3cret@{guarded.address}/1") == b"value"


async def test_a_unix_socket_is_reached(guarded: RedisProcess) -> None:
    path = guarded.folder / "redis.sock"
    assert await use(f"redis-socket://:{ENCODED}@{path}?db=2") == b"value"
    assert await use(f"unix://ann:s3cret@{path}") == b"value"


@single.ITS_DATABASES
async def test_databases_are_apart(redis_url: str) -> None:
    await use(redis_url.removesuffix("/0") + "/3")
    connection = Connection.open(redis_url)
    assert await connection.exchange.send([("DBSIZE",)]) == [0]
    await connection.close()


async def test_sentinels_and_their_redis_may_have_different_passwords(
    guarded: RedisProcess,
) -> None:
    monitoring = ("sentinel auth-user mymaster ann", "sentinel auth-pass mymaster s3cret")
    with start_sentinel(guarded.port, "mymaster", 1, "requirepass watch", *monitoring) as sentinel:
        url = f"redis-sentinel://ann:s3cret@{sentinel.address}?master=mymaster"
        assert await use(f"{url}&sentinel_password=watch") == b"value"
        with pytest.raises(AuthenticationError, match=f"{sentinel.address} - "):
            await use(url)
        with pytest.raises(AuthenticationError, match="want other credentials"):
            await use(f"{url}&sentinel_password=")


async def test_an_embedded_server_is_started_once_for_all_siblings() -> None:
    connection = Connection.open("embedded://")
    sibling = connection.sibling()
    assert await write_and_read(connection) == b"value"
    assert await read(sibling) == b"value"
    assert sibling.description == connection.description
    await sibling.close()
    await connection.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port of a Redis that speaks TLS at its address alone, and the certificate of the CA that vouches for it."""
    certificates = make_certificates(tmp_path_factory.mktemp("tls"), HOST)
    with start_tls_redis(certificates, auth_clients="no") as server:
        yield server.port, certificates.ca


async def test_tls_trusts_no_certificate_of_an_unknown_authority(tls: tuple[int, Path]) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in await refusal(use(f"rediss://{HOST}:{tls[0]}"))


async def test_tls_is_used_with_a_certificate_that_is_trusted(
    tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    assert await use(f"rediss://{HOST}:{tls[0]}") == b"value"


async def test_tls_carries_large_commands_and_answers(
    tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    connection = Connection.open(f"rediss://{HOST}:{tls[0]}")
    texts = [bytes([letter]) * 3_000_000 for letter in b"abc"]
    assert await connection.exchange.send([("ECHO", text) for text in texts]) == texts
    await connection.close()


async def test_tls_takes_a_certificate_for_its_own_host_only(
    tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[1]))
    assert "ostname mismatch" in await refusal(use(f"rediss://localhost:{tls[0]}"))


async def connection_ids(client: Redis | RedisCluster) -> set[int]:
    answer = await client.execute_command("CLIENT ID", target_nodes="primaries")
    return set(answer.values()) if isinstance(answer, dict) else {answer}


async def test_a_clients_owner_closes_it(
    deployment: Deployment, callers_client: Redis | RedisCluster
) -> None:
    before = await connection_ids(callers_client)
    connection = Connection.open(callers_client)
    assert connection.client is callers_client
    assert await write_and_read(connection) == b"value"
    await connection.close()
    assert await connection_ids(callers_client) == before


async def test_a_sibling_lives_on_another_threads_loop(
    deployment: Deployment, callers_client: Redis | RedisCluster
) -> None:
    for source in (deployment.url, callers_client):
        connection = Connection.open(source)
        await write_and_read(connection)
        sibling = connection.sibling()

        async def read_elsewhere(sibling: Connection = sibling) -> bytes:
            try:
                return await read(sibling)
            finally:
                await sibling.close()

        assert await asyncio.to_thread(lambda: asyncio.run(read_elsewhere())) == b"value"
        assert sibling.exchange is not connection.exchange
        assert sibling.client is not callers_client
        assert sibling.description == connection.description
        assert (sibling.cluster is None) is (connection.cluster is None)
        await connection.close()


async def reach_by_sibling(client: Redis) -> None:
    """See that a sibling of the client reaches what the client wrote."""
    sibling = Connection.open(client).sibling()
    await client.set("key", sibling.description)
    assert await read(sibling) == sibling.description.encode()
    await sibling.close()
    await client.aclose()


async def test_a_sibling_has_the_user_and_the_database_of_its_client(guarded: RedisProcess) -> None:
    path = str(guarded.folder / "redis.sock")
    await reach_by_sibling(Redis(port=guarded.port, username="ann", password="s3cret", db=4))
    await reach_by_sibling(Redis(unix_socket_path=path, password=PASSWORD, db=4))


async def test_a_sibling_has_the_tls_of_its_client(tls: tuple[int, Path]) -> None:
    await reach_by_sibling(Redis(host=HOST, port=tls[0], ssl=True, ssl_ca_certs=str(tls[1]), db=4))


async def test_what_is_closed_has_no_connection_left(deployment: Deployment) -> None:
    connection = Connection.open(deployment.url)
    await asyncio.gather(*(connection.exchange.send([("GET", "key")]) for _ in range(9)))
    await connection.close()
    await connection.close()

    def left() -> list[Any]:
        lists = deployment.ask_all("CLIENT LIST", "TYPE", "normal")
        ours = ("get", "cluster", "cluster|slots", "command")
        return [client for clients in lists for client in clients if client["cmd"] in ours]

    await eventually(lambda: not left())


async def test_one_node_hears_what_is_published_anywhere(deployment: Deployment) -> None:
    connection = Connection.open(deployment.url)
    listener = await connection.one_node()
    assert isinstance(listener.client, Redis)
    async with listener.client.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe("news")
        await subscription.get_message(timeout=5)
        for server in deployment.servers:
            server.ask("PUBLISH", "news", str(server.port))
        heard: set[int] = set()
        while len(heard) < len(deployment.servers):
            message = await subscription.get_message(timeout=5)
            if message:
                heard.add(int(message["data"]))
    assert heard == {server.port for server in deployment.servers}
    await listener.close()
    await connection.close()


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("redis://:s3cret@[::1]", "[::1]:6379/0"),
        ("rediss://ann:s3cret@h:1/2", "h:1/2"),
        ("unix://:s3cret@/run/r.sock?db=3", "/run/r.sock?db=3"),
        ("redis-sentinel://:s3cret@h1,h2:2/4?master=m", "m/4 by sentinels h1:26379,h2:2"),
        ("redis-cluster://:s3cret@h1,h2:2", "cluster h1:6379,h2:2"),
    ],
)
async def test_nothing_shows_the_password(url: str, description: str) -> None:
    connection = Connection.open(url)
    assert connection.description == description
    for thing in (connection, connection._plan, connection.client, connection.exchange):
        assert "s3cret" not in repr(thing)
    await connection.close()


async def test_errors_do_not_show_the_password(
    guarded: RedisProcess, cluster: ClusterProcesses
) -> None:
    closed = f"{HOST}:{free_port()}"
    for url in (
        f"redis://:hidden@{guarded.address}",
        f"redis://ann:hidden@{guarded.address}",
        f"redis://:hidden@{closed}",
        f"redis-socket://:hidden@{guarded.folder}/none.sock",
        f"redis-sentinel://:hidden@{closed}?master=m",
        f"redis-cluster://:hidden@{closed}",
        f"redis-cluster://:hidden@{guarded.address}",
    ):
        assert "hidden" not in (await refusal(use(url))).replace(url, "")


@pytest.mark.parametrize(
    ("source", "error", "complaint"),
    [
        (None, TypeError, "not NoneType"),
        (6379, TypeError, "not int"),
        (b"redis://h", TypeError, "not bytes"),
        (object(), TypeError, "not object"),
        (synchronous.Redis(), TypeError, "redis.asyncio"),
        (Redis().pipeline(), TypeError, "not Pipeline"),
        (Redis(decode_responses=True), ValueError, "decode_responses"),
        (RedisCluster("h", decode_responses=True), ValueError, "decode_responses"),
        ("embedded://?x", ValueError, "no query"),
        ("http://h", ValueError, "embedded://"),
    ],
)
def test_what_is_no_redis_is_refused(source: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        Connection.open(source)


async def test_connections_to_the_same_redis_share_a_circuit_breaker(redis_url: str) -> None:
    one, other = Connection.open(redis_url), Connection.open("redis://elsewhere:6379/0")
    sibling = one.sibling()
    assert one.breaker is sibling.breaker
    assert one.breaker is not other.breaker


async def test_idle_connections_are_forgotten_in_every_shape(deployment: Deployment) -> None:
    broker = Broker(deployment.url)
    await broker.ping()
    before = _connection_ids(deployment)
    await broker._connection.forget_idle()
    await broker.ping()
    assert before - _connection_ids(deployment)
    await broker.close()


def _connection_ids(deployment: Deployment) -> set[str]:
    answers = deployment.ask_all("CLIENT LIST", "TYPE", "normal")
    every = enumerate(answers)
    return {f"{n}:{it['id']}" for n, clients in every for it in clients if it["cmd"] == "ping"}


@pytest.mark.parametrize(("own", "expected"), [(None, 2.0), (60, 2.0), (1, 1)])
async def test_sibling_may_be_less_patient_but_never_more(
    own: float | None, expected: float
) -> None:
    async with Redis(socket_timeout=own, socket_connect_timeout=own) as client:
        sibling = Connection.open(client).sibling(timeout=2.0)
        assert isinstance(sibling.client, Redis)
        options = sibling.client.connection_pool.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (
            expected,
            expected,
        )
        await sibling.close()


async def test_client_of_the_callers_says_how_long_an_answer_may_take() -> None:
    for own in (None, 3.0):
        async with Redis(socket_timeout=own) as client:
            connection = Connection.open(client)
            assert (connection.socket_timeout, connection.routes_waits) == (own, True)


def test_client_of_ours_has_a_time_for_answers_in_every_shape() -> None:
    for url in ("redis://h", "redis-sentinel://h/0?master=m", "redis-cluster://h"):
        connection = Connection.open(url)
        assert (connection.socket_timeout, connection.routes_waits) == (SOCKET_TIMEOUT, True)


def test_cluster_client_of_the_callers_cannot_be_told_where_a_command_without_a_key_goes() -> None:
    assert not Connection.open(RedisCluster(HOST, 6379)).routes_waits
