"""Every secret that asynqpy is given, in every place where it could show. Each has the word ``s3cret`` in it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import serialization
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel
from typer.testing import CliRunner

from asynqpy import ActiveTask, BrokerError, Client, Doctor, Server, Task
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import Connection, RedisSource
from asynqpy.broker.redis_client import plan_of_url
from asynqpy.broker.redis_url import parse_redis_url
from asynqpy.cli.app import app
from tests.eventually import eventually
from tests.redis_process import HOST, RedisProcess, free_port, start_redis
from tests.server.servers import serving
from tests.topologies.cluster import start_cluster
from tests.topologies.sentinel import start_sentinel
from tests.topologies.tls import Certificates, start_tls_redis

ROOT = Path(__file__).parents[2]

#: Of Redis, of sentinels, and of an encrypted key.
PASSWORD, WATCH, KEY = "pass/s3cret@word", "watch&s3cret", "key:s3cret?"

MARK = "s3cret"

USER = f"ann:{quote(PASSWORD, safe='')}@"

ACL = ("--user", "ann", "on", f">{PASSWORD}", "~*", "&*", "+@all", "--requirepass", PASSWORD)


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = serialization.load_pem_private_key(certificates.client_key.read_bytes(), None)
    path = tmp_path_factory.mktemp("key") / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(KEY.encode()),
        )
    )
    return path


def shown(certificates: Certificates, key: Path, password: str = KEY) -> str:
    """The options of a URL with an encrypted key."""
    opened = f"ssl_keyfile={key}&ssl_password={quote(password, safe='')}"
    return f"ssl_ca_certs={certificates.ca}&ssl_certfile={certificates.client}&{opened}"


def urls(certificates: Certificates, key: Path, address: str = "h") -> list[str]:
    """Each form of a URL, with secrets in all places where it may have some."""
    watched = f"master=m&sentinel_password={quote(WATCH, safe='')}"
    tls = shown(certificates, key)
    return [
        f"redis://{USER}{address}",
        f"redis://:{quote(PASSWORD, safe='')}@{address}/1",
        f"rediss://{USER}{address}?{tls}",
        f"unix://{USER}/run/r.sock?db=1",
        f"redis-socket://{USER}/run/r.sock",
        f"redis-sentinel://{USER}{address}?{watched}",
        f"rediss-sentinel://{USER}{address}?{watched}&{tls}",
        f"redis-cluster://{USER}{address}",
        f"rediss-cluster://{USER}{address}?{tls}",
    ]


def callers_clients(
    address: str, certificates: Certificates, key: Path
) -> list[Redis | RedisCluster]:
    host, _, port = address.partition(":")
    watching = Sentinel(  # type: ignore[no-untyped-call]
        [(host, int(port))], sentinel_kwargs={"password": WATCH}
    )
    return [
        Redis(host=host, port=int(port), username="ann", password=PASSWORD),
        Redis.from_url(f"redis://{USER}{address}"),
        watching.master_for("mymaster", username="ann", password=PASSWORD),
        RedisCluster(host, int(port), username="ann", password=PASSWORD),
        RedisCluster(
            host, int(port), ssl=True, ssl_ca_certs=str(certificates.ca), password=PASSWORD
        ),
    ]


def assert_hidden(*texts: str) -> None:
    for text in texts:
        assert MARK not in text
        assert quote(PASSWORD, safe="") not in text


@asynccontextmanager
async def everything(source: RedisSource) -> AsyncIterator[list[object]]:
    """Whatever is made of an address."""
    connection = Connection.open(source)
    sibling = connection.sibling()
    client, server, doctor, broker = Client(source), Server(source), Doctor(source), Broker(source)
    try:
        yield [connection, sibling, connection._plan, client, server, doctor, broker]
    finally:
        for it in (connection, sibling, client, doctor, broker):
            await it.close()
        await server.shutdown()


async def test_nothing_shows_a_secret_of_its_url(
    certificates: Certificates, encrypted: Path
) -> None:
    for url in urls(certificates, encrypted):
        async with everything(url) as things:
            clients = [it.client for it in things if isinstance(it, Connection)]
            pools = [it.connection_pool for it in clients if isinstance(it, Redis)]
            parsed = parse_redis_url(url)
            shown = [*things, *clients, *pools, parsed, plan_of_url(parsed)]
            assert_hidden(*map(repr, shown), *map(str, shown))


async def test_nothing_shows_a_secret_of_a_callers_client(
    certificates: Certificates, encrypted: Path
) -> None:
    for client in callers_clients(f"{HOST}:{free_port()}", certificates, encrypted):
        async with everything(client) as things:
            assert_hidden(*map(repr, things), *map(str, things))
        await client.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "redis://ann:pass/s3cret@h",
        "redis://ann:pass?s3cret@h",
        "redis://ann:1#s3cret:x",
        "redis://h:s3cret",
        "redis://s3cret",
        "redis://:s3cret@h/x",
        "redis://:s3cret@h?db=1",
        "redis://:s3cret@",
        "redis-sentinel://:s3cret@h",
        "redis-sentinel://h?master=m&sentinel_password=a&s3cret=b",
        "redis-sentinel://h?master=m&sentinel_password=s3cret&sentinel_password=s3cret",
        "redis-cluster://:s3cret@h/1",
        "rediss://h?ssl_password=s3cret",
        "rediss://h?ssl_certfile=c&ssl_password=a&s3cret=b",
        "rediss://:s3cret@h?ssl_ca_certs=/none/at/all",
        "rediss://:s3cret@h?ssl_insecure=s3cret",
        "redis://:s3cret@h?ssl_password=s3cret",
        "rediss:/ann:s3cret@h",
        "ann:s3cret@h:6379",
        "http://ann:s3cret@h",
    ],
)
def test_a_url_that_cannot_be_used_is_not_quoted(url: str) -> None:
    for use in (Client, Server, Doctor, Broker):
        try:
            use(url)
        except ValueError as error:
            assert_hidden(in_full(error))
        else:
            assert url == "redis://s3cret", "a host"


async def test_a_key_that_does_not_open_is_told_without_its_password(
    certificates: Certificates, encrypted: Path
) -> None:
    for password in ("s3cret", "s3cret" * 1000):
        with pytest.raises(ValueError) as refused:
            Client(f"rediss://h?{shown(certificates, encrypted, password)}")
        assert_hidden(in_full(refused.value))


def in_full(error: BaseException) -> str:
    """All that Python shows of an error and its causes, less the lines of this file, which have secrets themselves."""
    cause: traceback.TracebackException | None
    cause = traceback.TracebackException.from_exception(error)
    texts = []
    while cause is not None:
        texts += list(cause.format_exception_only())
        texts += [f"{it.name} {it.line}" for it in cause.stack if it.filename != __file__]
        cause = cause.__cause__ or cause.__context__
    return "\n".join(texts)


@dataclass(frozen=True)
class Guarded:
    """Servers that want secrets."""

    redis: RedisProcess
    tls: RedisProcess
    sentinel: RedisProcess
    cluster: str


@pytest.fixture(scope="module")
def guarded(certificates: Certificates) -> Iterator[Guarded]:
    monitoring = (
        "sentinel auth-user mymaster ann",
        f"sentinel auth-pass mymaster {PASSWORD}",
        f"requirepass {WATCH}",
    )
    with (
        start_redis(*ACL, ask_with={"password": PASSWORD}) as redis,
        start_tls_redis(certificates) as tls,
        start_sentinel(
            redis.port, "mymaster", 1, *monitoring, ask_with={"password": WATCH}
        ) as sentinel,
        start_cluster(1) as cluster,
    ):
        for server in (tls, *cluster.nodes):
            server.ask("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        tls.ask("CONFIG", "SET", "maxmemory", "0")
        yield Guarded(redis, tls, sentinel, cluster.nodes[0].address)


def good(guarded: Guarded, certificates: Certificates, key: Path) -> dict[str, str]:
    watched = f"master=mymaster&sentinel_password={quote(WATCH, safe='')}"
    return {
        "plain": f"redis://{USER}{guarded.redis.address}",
        "tls": f"rediss://{USER}{guarded.tls.address}?{shown(certificates, key)}",
        "sentinel": f"redis-sentinel://{USER}{guarded.sentinel.address}?{watched}",
        "cluster": f"redis-cluster://{USER}{guarded.cluster}",
    }


async def use(source: RedisSource) -> None:
    async with Client(source) as client:
        await client.enqueue(Task("t"))


async def told_by(trouble: Awaitable[object]) -> str:
    with pytest.raises(BrokerError) as refused:
        await trouble
    return in_full(refused.value)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All there is, of every library."""
    caplog.set_level(logging.DEBUG)
    return caplog


def assert_hidden_in(log: pytest.LogCaptureFixture) -> None:
    shown = logging.Formatter()
    assert_hidden(*(shown.format(it) for it in log.records), log.text)


@pytest.mark.parametrize("shape", ["plain", "tls", "sentinel", "cluster"])
async def test_the_whole_life_of_a_server_tells_no_secret(
    shape: str,
    guarded: Guarded,
    certificates: Certificates,
    encrypted: Path,
    log: pytest.LogCaptureFixture,
) -> None:
    url = good(guarded, certificates, encrypted)[shape]
    ran = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        logging.getLogger("program").info("%r of %r", task, server)
        ran.set()

    async with serving(url, handle) as server:
        await use(url)
        await asyncio.wait_for(ran.wait(), 10)
        if shape in ("plain", "tls"):
            process = guarded.redis if shape == "plain" else guarded.tls
            process.ask("CLIENT", "KILL", "TYPE", "normal")
            await use(url)
        assert_hidden(repr(server), str(server))
    assert log.records
    assert_hidden_in(log)


async def test_wrong_secrets_are_refused_and_not_quoted(
    guarded: Guarded, certificates: Certificates, encrypted: Path, log: pytest.LogCaptureFixture
) -> None:
    for url in good(guarded, certificates, encrypted).values():
        wrong = url.replace(quote(PASSWORD, safe=""), "wrong-s3cret")
        assert_hidden(await told_by(use(wrong)))
        with suppress(BrokerError):
            async with serving(wrong, print):
                pass
    unwatched = good(guarded, certificates, encrypted)["sentinel"].replace(
        quote(WATCH), "wrong-s3cret"
    )
    assert_hidden(await told_by(use(unwatched.replace(quote(WATCH, safe=""), "wrong-s3cret"))))
    assert_hidden_in(log)


async def test_what_is_not_there_is_told_without_secrets(
    certificates: Certificates, encrypted: Path, log: pytest.LogCaptureFixture
) -> None:
    nowhere = f"{HOST}:{free_port()}"
    for url in urls(certificates, encrypted, nowhere):
        assert_hidden(await told_by(use(url)))
        assert_hidden(await told_by(use(url)))  # by now it is known to be away
    for client in callers_clients(nowhere, certificates, encrypted):
        assert_hidden(await told_by(use(client)))
        await client.aclose()
    assert_hidden_in(log)


async def test_tls_that_fails_is_told_without_secrets(
    guarded: Guarded, certificates: Certificates, encrypted: Path, log: pytest.LogCaptureFixture
) -> None:
    for url in (
        f"rediss://{USER}{guarded.tls.address}",
        f"rediss://{USER}{guarded.tls.address}?ssl_ca_certs={certificates.ca}",
        f"rediss://{USER}{guarded.tls.address}?{shown(certificates, encrypted)}&ssl_server_name=other",
        f"redis://{USER}{guarded.tls.address}/1",
    ):
        assert_hidden(await told_by(use(url)))
    assert_hidden_in(log)


async def test_callers_clients_are_served_without_telling(
    guarded: Guarded, certificates: Certificates, encrypted: Path, log: pytest.LogCaptureFixture
) -> None:
    client = Redis(host=HOST, port=guarded.redis.port, username="ann", password=PASSWORD)
    opened = {"ssl_keyfile": str(encrypted), "ssl_password": KEY}
    if "ssl_password" not in signature(Redis).parameters:  # early versions of redis-py
        opened = {"ssl_keyfile": str(certificates.client_key)}
    tls = Redis(
        host=HOST,
        port=guarded.tls.port,
        username="ann",
        password=PASSWORD,
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
        ssl_certfile=str(certificates.client),
        **opened,  # type: ignore[arg-type]
    )
    for each in (client, tls):
        ran = asyncio.Event()

        async def handle(task: ActiveTask, ran: asyncio.Event = ran) -> None:
            ran.set()

        async with serving(each, handle):
            await use(each)
            await asyncio.wait_for(ran.wait(), 10)
        await each.aclose()
    assert_hidden_in(log)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("password", [PASSWORD, "wrong-s3cret"])
async def test_processes_and_their_output_show_no_secret(
    password: str, guarded: Guarded, tmp_path: Path
) -> None:
    url = f"redis://ann:{quote(password, safe='')}@{guarded.redis.address}"
    target = "tests.supervisor.programs:main"
    output = tmp_path / "output"
    with output.open("wb") as sink:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-m", "asynqpy"),
            *("worker", target, "--processes", "2"),
            cwd=ROOT,
            env={**os.environ, "REDIS_URL": url, "PYTHONWARNINGS": "default"},
            stdout=sink,
            stderr=sink,
        )
        try:
            children = await eventually(lambda: children_of(worker.pid, 2), within=30)
            for pid in (worker.pid, *children):
                assert_hidden(arguments(pid))
            await eventually(lambda: output.read_bytes(), within=30)
        finally:
            worker.terminate()
            await asyncio.wait_for(worker.wait(), 30)
    assert_hidden(output.read_text())


def children_of(pid: int, count: int) -> list[int]:
    """Once there are so many."""
    found = [it for it in Path("/proc").iterdir() if it.name.isdigit() and parent(it) == pid]
    return [int(it.name) for it in found] if len(found) >= count else []


def parent(process: Path) -> int:
    with suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


def arguments(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@pytest.mark.parametrize("words", [("ping",), ("ping", "--help"), ("worker", "--help")])
def test_the_command_line_repeats_no_secret_of_its_environment(words: tuple[str, ...]) -> None:
    for url in (f"redis://{USER}{HOST}:{free_port()}", f"redis://{USER}h/x"):
        result = CliRunner().invoke(app, words, env={"REDIS_URL": url, "COLUMNS": "200"})
        assert_hidden(result.output)
        assert words[0] in result.output or "asynqpy: " in result.output
