from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.redis_process import HOST
from tests.topologies.tls import Certificates, TlsRedis, make_certificates, start_tls_redis


def ping(server: TlsRedis, ask_with: Mapping[str, Any], host: str = HOST) -> bool:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(host, server.port, retry=once, **ask_with) as client:
        return bool(client.ping())


def test_a_client_with_a_certificate_is_served(certificates: Certificates) -> None:
    with start_tls_redis(certificates) as server:
        assert server.ask("PING")
        assert server.url.startswith(f"rediss://{HOST}:{server.port}/0?ssl_ca_certs=")


def test_a_client_without_one_is_served_where_that_is_allowed(certificates: Certificates) -> None:
    trust = {"ssl": True, "ssl_ca_certs": str(certificates.ca)}
    with start_tls_redis(certificates, auth_clients="no") as server:
        assert ping(server, trust)
        assert ping(server, trust, "localhost")
    with start_tls_redis(certificates) as server, pytest.raises(redis.ConnectionError):
        ping(server, trust)


def test_authorities_know_nothing_of_each_other(certificates: Certificates, tmp_path: Path) -> None:
    stranger = make_certificates(tmp_path)
    with (
        start_tls_redis(certificates) as server,
        pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        ping(server, stranger.ask_with)
