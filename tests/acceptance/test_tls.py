"""Whole lives of tasks over TLS, in each shape of Redis; and what is told when TLS does not come about."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel

from asynqpy import (
    ActiveTask,
    BrokerAuthError,
    BrokerUnavailableError,
    CancelCause,
    Client,
    SkipRetry,
    Task,
)
from asynqpy.broker.broker import Broker
from asynqpy.broker.connection import RedisSource
from tests.eventually import eventually
from tests.redis_process import (
    HOST,
    RedisProcess,
    free_port,
    ready,
    start_redis,
    temporary_folder,
)
from tests.server.servers import serving
from tests.topologies.cluster import ClusterProcesses
from tests.topologies.tls import SERVER_NAMES, Certificates, start_tls_redis

#: What an error or the log says of a certificate that is not accepted.
UNTRUSTED = "could not be reached .*its certificate is not trusted"


@pytest.fixture(scope="module")
def mutual(certificates: Certificates) -> Iterator[RedisProcess]:
    """Wants a certificate of its clients."""
    with start_tls_redis(certificates) as server:
        yield server


@pytest.fixture(scope="module")
def one_sided(certificates: Certificates) -> Iterator[RedisProcess]:
    with start_tls_redis(certificates, auth_clients="no") as server:
        yield server


@dataclass(frozen=True)
class Deployment:
    """Redis in one of its shapes, with TLS everywhere; all want a certificate of their clients."""

    url: str
    servers: Sequence[RedisProcess]
    callers_client: Callable[[], Redis | RedisCluster]

    def ask_all(self, *command: str) -> list[Any]:
        return [server.ask(*command) for server in self.servers]


def single(certificates: Certificates, keep: ExitStack) -> Deployment:
    server = keep.enter_context(start_tls_redis(certificates))
    return Deployment(
        server.url, [server], lambda: Redis(host=HOST, port=server.port, **certificates.ask_with)
    )


def sentinel(certificates: Certificates, keep: ExitStack) -> Deployment:
    master = keep.enter_context(start_tls_redis(certificates))
    watching = keep.enter_context(start_tls_sentinel(certificates, master.port))

    def of_caller() -> Redis:
        manager = Sentinel(  # type: ignore[no-untyped-call]
            [(HOST, watching.port)], sentinel_kwargs=dict(certificates.ask_with)
        )
        client: Redis = manager.master_for("mymaster", **certificates.ask_with)
        return client

    url = f"rediss-sentinel://{watching.address}?master=mymaster&{certificates.url_options}"
    return Deployment(url, [master], of_caller)


def start_tls_sentinel(certificates: Certificates, master_port: int) -> RedisProcess:
    port, folder = free_port(), temporary_folder()
    settings = {**certificates.server_settings(port), "bind": HOST}
    settings["sentinel"] = f"monitor mymaster {HOST} {master_port} 1"
    file = Path(folder.name, "sentinel.conf")
    file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return ready(RedisProcess([str(file), "--sentinel"], port, folder, certificates.ask_with))


def cluster(certificates: Certificates, keep: ExitStack) -> Deployment:
    processes = keep.enter_context(ClusterProcesses())
    options = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    for _ in range(3):
        processes.nodes.append(start_tls_redis(certificates, *options))
    processes.join(3)
    addresses = ",".join(node.address for node in processes.nodes)
    url = f"rediss-cluster://{addresses}?{certificates.url_options}"
    port = processes.nodes[0].port
    return Deployment(
        url, processes.nodes, lambda: RedisCluster(HOST, port, **certificates.ask_with)
    )


@pytest.fixture(scope="module", params=[single, sentinel, cluster], ids=lambda it: it.__name__)
def deployment(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Deployment]:
    with ExitStack() as keep:
        yield request.param(certificates, keep)


def is_tracking(deployment: Deployment) -> bool:
    return all(info["tracking_clients"] for info in deployment.ask_all("INFO", "clients"))


async def seen(look: Callable[..., bool], *args: Any) -> None:
    """Wait until it is so. The questions, which shake hands by TLS each time, hold up a thread and no loop."""
    await eventually(lambda: asyncio.to_thread(look, *args), within=20)


async def see_a_life(deployment: Deployment, redis: RedisSource) -> None:
    """A task that leaves a result, and one that is cancelled, on a server that would poll too late."""
    deployment.ask_all("FLUSHALL")
    causes: list[CancelCause | None] = []
    waits = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        if task.type == "quick":
            await task.write_result(b"done")
            return
        waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            causes.append(task.cancel_cause)
            raise SkipRetry("cancelled") from None

    async with Client(redis) as client, serving(redis, handle, task_check_interval=60):
        await seen(is_tracking, deployment)
        await client.enqueue(Task("quick"), task_id="quick", retention=60)
        await seen(has_field, deployment, "quick", b"done")
        await client.enqueue(Task("slow"), task_id="slow")
        await asyncio.wait_for(waits.wait(), 5)
        await cancel(redis, "slow", causes)
        await seen(has_field, deployment, "slow", b"archived")
    assert causes == [CancelCause.REQUESTED]


async def cancel(redis: RedisSource, task_id: str, causes: list[Any]) -> None:
    """Ask until it is heard: the server may yet be about to subscribe."""
    broker = Broker(redis)

    async def asked() -> bool:
        await broker.publish_cancel(task_id)
        return bool(causes)

    await eventually(asked)
    await broker.close()


def has_field(deployment: Deployment, task_id: str, value: bytes) -> bool:
    """Whether the task's record has it."""
    question = ("EVAL", _FIELDS, "0", f"asynq:{{default}}:t:{task_id}")
    return any(value in answer for answer in deployment.ask_all(*question))


#: Of a cluster, the node that has the key; others answer nothing.
_FIELDS = """
local answer = redis.pcall('HVALS', ARGV[1])
return answer.err and {} or answer
"""


async def test_tasks_live_over_tls_with_a_client_certificate(deployment: Deployment) -> None:
    await see_a_life(deployment, deployment.url)


async def test_a_callers_client_brings_its_tls_to_all_connections(deployment: Deployment) -> None:
    client = deployment.callers_client()
    try:
        await see_a_life(deployment, client)
    finally:
        await client.aclose()
        for watching in sentinels_of(client):
            await watching.aclose()


def sentinels_of(client: Redis | RedisCluster) -> Sequence[Redis]:
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return manager.sentinels if manager else []


def shown(certificates: Certificates) -> str:
    return f"ssl_certfile={certificates.client}&ssl_keyfile={certificates.client_key}"


async def use(url: str) -> None:
    """Enqueue one task."""
    async with Client(url) as client:
        await client.enqueue(Task("used"))


async def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailableError) as refused:
        await use(url)
    return str(refused.value)


async def test_a_server_is_believed_by_the_authority_that_is_named(
    one_sided: RedisProcess, certificates: Certificates, other_certificates: Certificates
) -> None:
    await use(f"rediss://{one_sided.address}?ssl_ca_certs={certificates.ca}")
    told = await refusal(f"rediss://{one_sided.address}?ssl_ca_certs={other_certificates.ca}")
    assert "certificate is not trusted: name the authority" in told
    assert "nothing was sent" in told
    assert "is not trusted" in await refusal(f"rediss://{one_sided.address}")


async def test_the_name_of_the_certificate_may_be_another_than_the_host(
    one_sided: RedisProcess, certificates: Certificates, tmp_path: Path
) -> None:
    with start_tls_redis(made_for(tmp_path, "redis.internal"), auth_clients="no") as server:
        url = f"rediss://{server.address}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        assert "bears another name" in await refusal(url)
        assert "bears another name" in await refusal(f"{url}&ssl_server_name=redis")
        await use(f"{url}&ssl_server_name=redis.internal")


class Unverified(Certificates):
    """Those of a server that not even the test can verify."""

    @property
    def ask_with(self) -> Mapping[str, Any]:
        return {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}


def made_for(folder: Path, *names: str, days: int = 1) -> Unverified:
    """A certificate that ends so many days from now."""
    files = Unverified(folder)
    authority = trustme.CA()
    ends = datetime.now(UTC) + timedelta(days=days)
    begins = datetime.now(UTC) - timedelta(days=30)
    issued = authority.issue_cert(*names, not_before=begins, not_after=ends)
    authority.cert_pem.write_to_path(files.ca)
    issued.private_key_and_cert_chain_pem.write_to_path(files.server)
    issued.private_key_pem.write_to_path(files.server_key)
    return files


async def test_an_expired_certificate_is_refused_until_it_is_renewed(tmp_path: Path) -> None:
    expired = made_for(tmp_path, *SERVER_NAMES, days=-1)
    with start_tls_redis(expired, auth_clients="no") as server:
        told = await refusal(f"rediss://{server.address}?ssl_ca_certs={expired.ca}")
        assert "certificate has expired" in told
        assert "not trusted, because of its dates" in told


async def test_insecure_believes_everybody_and_says_so(
    one_sided: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    await use(f"rediss://{one_sided.address}?ssl_insecure=true")
    await use(f"rediss://{one_sided.address}?ssl_insecure=true")
    told = [it for it in caplog.messages if "not verified (ssl_insecure=true)" in it]
    assert len(told) == 1


async def test_a_server_that_wants_a_certificate_gets_it_or_is_told_of(
    mutual: RedisProcess, certificates: Certificates, other_certificates: Certificates
) -> None:
    url = f"rediss://{mutual.address}?ssl_ca_certs={certificates.ca}"
    await use(f"{url}&{shown(certificates)}")
    for none in (url, f"{url}&{shown(other_certificates)}"):
        told = await refusal(none)
        assert "want a client certificate, or another one: check ssl_certfile" in told
        assert "nothing was sent" in told


async def test_text_to_a_tls_port_is_told_at_once(one_sided: RedisProcess) -> None:
    for user in ("", ":s3cret@"):
        told = await refusal(f"redis://{user}{one_sided.address}")
        assert "hung up at once" in told
        assert "TLS (rediss://)" in told


async def test_tls_to_a_port_of_text_is_given_up_and_told(certificates: Certificates) -> None:
    with start_redis() as server:
        began = time.monotonic()
        told = await refusal(f"rediss://{server.address}?ssl_ca_certs={certificates.ca}")
        assert "does not speak TLS at this port" in told
        assert time.monotonic() - began < 6


async def test_a_wrong_password_over_tls_is_refused_as_ever(
    one_sided: RedisProcess, certificates: Certificates
) -> None:
    with pytest.raises(BrokerAuthError):
        await use(f"rediss://ann:hidden@{one_sided.address}?ssl_ca_certs={certificates.ca}")


async def test_sentinels_that_are_not_trusted_are_told_of(
    certificates: Certificates, other_certificates: Certificates, mutual: RedisProcess
) -> None:
    with start_tls_sentinel(certificates, mutual.port) as watching:
        url = f"rediss-sentinel://{watching.address}?master=mymaster"
        await use(f"{url}&{certificates.url_options}")
        assert "is not trusted" in await refusal(f"{url}&ssl_ca_certs={other_certificates.ca}")
        assert "want a client certificate" in await refusal(f"{url}&ssl_ca_certs={certificates.ca}")


async def test_nodes_of_a_cluster_that_are_not_trusted_are_told_of(
    certificates: Certificates, other_certificates: Certificates
) -> None:
    with ExitStack() as keep:
        url = cluster(certificates, keep).url.partition("?")[0]
        await use(f"{url}?{certificates.url_options}")
        assert "is not trusted" in await refusal(f"{url}?ssl_ca_certs={other_certificates.ca}")


async def test_a_server_waits_for_a_redis_that_is_to_be_trusted_and_then_works(
    one_sided: RedisProcess,
    certificates: Certificates,
    other_certificates: Certificates,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_sided.ask("FLUSHALL")
    authority = tmp_path / "ca.pem"
    authority.write_bytes(other_certificates.ca.read_bytes())
    url = f"rediss://{one_sided.address}/0?ssl_ca_certs={authority}"
    ran = asyncio.Event()

    async def handle(task: ActiveTask) -> None:
        ran.set()

    with caplog.at_level(logging.WARNING):
        async with serving(url, handle):
            assert any("is not trusted" in message for message in caplog.messages)
            authority.unlink()
            authority.write_bytes(certificates.ca.read_bytes())
            await use(url)
            await asyncio.wait_for(ran.wait(), 5)


def test_on_uvloop_it_is_the_same(
    mutual: RedisProcess, certificates: Certificates, other_certificates: Certificates
) -> None:
    uvloop = pytest.importorskip("uvloop")
    url = f"rediss://{mutual.address}?{shown(certificates)}"
    uvloop.run(use(f"{url}&ssl_ca_certs={certificates.ca}&ssl_server_name=redis.test"))
    for more, words in (
        (f"ssl_ca_certs={other_certificates.ca}", "is not trusted"),
        (f"ssl_ca_certs={certificates.ca}&ssl_server_name=other.test", "bears another name"),
    ):
        assert words in uvloop.run(refusal(f"{url}&{more}"))
