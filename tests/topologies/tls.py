"""TLS for servers under test: a certificate authority made for one run, and what it vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import trustme

from tests.redis_process import (
    HOST,
    RedisProcess,
    free_port,
    ready,
    redis_args,
    temporary_folder,
)
from tests.requires import server_lacks_tls

SERVER_NAMES = (HOST, "localhost", "redis.test")


@dataclass(frozen=True)
class Certificates:
    """Files in a folder: an authority's certificate, and one with its key for either side.

    ``ca`` has vouched for the others. The server's is good for ``SERVER_NAMES``; ``redis.test`` is
    a name that no resolver knows.
    """

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"

    @property
    def client(self) -> Path:
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        return self.folder / "client.key"

    @cached_property
    def ask_with(self) -> Mapping[str, Any]:
        """redis-py's options for a client that shows its certificate."""
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.ca),
            "ssl_certfile": str(self.client),
            "ssl_keyfile": str(self.client_key),
        }

    @property
    def url_options(self) -> str:
        """The same as asynqpy's URLs spell it, without a question mark."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        return urlencode({name: self.ask_with[name] for name in names}, quote_via=quote)

    def server_settings(self, port: int) -> dict[str, str]:
        """A server that speaks TLS alone, also to its replicas, sentinels and fellow nodes."""
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.server),
            "tls-key-file": str(self.server_key),
            "tls-ca-cert-file": str(self.ca),
            "tls-replication": "yes",
        }

    def server_args(self, port: int) -> list[str]:
        settings = self.server_settings(port).items()
        return [word for name, value in settings for word in (f"--{name}", value)]


def make_certificates(folder: Path, *names: str) -> Certificates:
    """A new authority each time: one's clients do not trust another's servers.

    The server's certificate is good for the names, else for ``SERVER_NAMES``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made.ca)
    server = authority.issue_cert(*(names or SERVER_NAMES), common_name="redis")
    client = authority.issue_cert("client.test", common_name="client")
    for issued, certificate, key in (
        (server, made.server, made.server_key),
        (client, made.client, made.client_key),
    ):
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
    return made


class TlsRedis(RedisProcess):
    """A server that speaks TLS alone."""

    def __init__(self, args: list[str], port: int, certificates: Certificates) -> None:
        folder = temporary_folder()
        args = [*args, *certificates.server_args(port)]
        super().__init__(args, port, folder, certificates.ask_with)
        self.certificates = certificates

    @property
    def url(self) -> str:
        """With the authority's certificate, and the client's with its key."""
        return f"rediss://{self.address}/0?{self.certificates.url_options}"


def start_tls_redis(
    certificates: Certificates, *extra_args: str, auth_clients: str = "yes"
) -> TlsRedis:
    """A server that wants a certificate of its clients, unless ``auth_clients`` is ``no`` or ``optional``.

    Skips the test where the server that is installed was built without TLS.
    """
    args = [*redis_args(free_port()), "--tls-auth-clients", auth_clients, *extra_args]
    try:
        return ready(TlsRedis(args, free_port(), certificates))
    except RuntimeError as error:
        skip_without_tls(error)
        raise


def skip_without_tls(error: RuntimeError) -> None:
    """Skip the test when a server did not start because it knows no TLS."""
    reasons = ("Failed finding TLS support", "Bad directive", "without TLS")
    if any(reason in str(error) for reason in reasons):
        server_lacks_tls()
