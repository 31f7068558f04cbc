from __future__ import annotations

import pytest

from asynqpy.broker.redis_url import (
    ClusterUrl,
    Credentials,
    Endpoint,
    RedisUrl,
    SentinelUrl,
    SocketUrl,
    TcpUrl,
    parse_redis_url,
)
from asynqpy.broker.tls_options import Tls

NOBODY = Credentials()
ANN = Credentials("ann", "s3cret")


def tcp(
    host: str, port: int = 6379, db: int = 0, who: Credentials = NOBODY, *, tls: Tls | None = None
) -> TcpUrl:
    return TcpUrl(Endpoint(host, port), db, who, tls)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", tcp("localhost")),
        ("redis://localhost/", tcp("localhost")),
        ("REDIS://localhost:7000/12", tcp("localhost", 7000, 12)),
        ("redis://[::1]", tcp("::1")),
        ("redis://[fe80::1%eth0]:7000/1", tcp("fe80::1%eth0", 7000, 1)),
        ("redis://:s3cret@h", tcp("h", who=Credentials(None, "s3cret"))),
        ("redis://ann:s3cret@h:1/2", tcp("h", 1, 2, ANN)),
        ("redis://ann@h", tcp("h", who=Credentials("ann", None))),
        ("redis://:@h", tcp("h")),
        ("redis://a%40b:p%2Fw%3A%23+%25@h", tcp("h", who=Credentials("a@b", "p/w:#+%"))),
        ("redis://:p@ss:w#rd@h", tcp("h", who=Credentials(None, "p@ss:w#rd"))),
        ("rediss://ann:s3cret@h/3", tcp("h", 6379, 3, ANN, tls=Tls())),
        ("rediss://h?ssl_ca_certs=/a%20b/ca.pem", tcp("h", tls=Tls(ca_certs="/a b/ca.pem"))),
        ("redis-socket:///run/redis.sock", SocketUrl("/run/redis.sock", 0, NOBODY)),
        ("redis-socket://ann:s3cret@/r.sock?db=4", SocketUrl("/r.sock", 4, ANN)),
        ("unix:///tmp/a%40b%20c.sock?db=1", SocketUrl("/tmp/a@b c.sock", 1, NOBODY)),
        (
            "redis-sentinel://h1,h2:1/5?master=main",
            SentinelUrl(
                (Endpoint("h1", 26379), Endpoint("h2", 1)), "main", 5, NOBODY, NOBODY, None
            ),
        ),
        (
            "rediss-sentinel://ann:s3cret@h1?master=main&ssl_server_name=redis",
            SentinelUrl((Endpoint("h1", 26379),), "main", 0, ANN, ANN, Tls(server_name="redis")),
        ),
        ("redis-cluster://h1:1", ClusterUrl((Endpoint("h1", 1),), NOBODY, None)),
        (
            "redis-cluster://ann:s3cret@h1,[::1]:2/0",
            ClusterUrl((Endpoint("h1", 6379), Endpoint("::1", 2)), ANN, None),
        ),
        (
            "rediss-cluster://h1?ssl_insecure=true",
            ClusterUrl((Endpoint("h1", 6379),), NOBODY, Tls(insecure=True)),
        ),
    ],
)
def test_an_address_is_read(url: str, expected: RedisUrl) -> None:
    assert parse_redis_url(url) == expected


@pytest.mark.parametrize(
    ("userinfo", "query", "redis", "sentinel"),
    [
        ("", "", NOBODY, NOBODY),
        ("ann:s3cret@", "", ANN, ANN),
        ("ann:s3cret@", "&sentinel_password=other+1", ANN, Credentials(None, "other+1")),
        ("ann:s3cret@", "&sentinel_password=", ANN, NOBODY),
        ("", "&sentinel_username=eve&sentinel_password=p%26w", NOBODY, Credentials("eve", "p&w")),
    ],
)
def test_sentinels_share_the_credentials_of_redis_unless_given_their_own(
    userinfo: str, query: str, redis: Credentials, sentinel: Credentials
) -> None:
    url = parse_redis_url(f"redis-sentinel://{userinfo}h?master=m{query}")
    assert isinstance(url, SentinelUrl)
    assert (url.credentials, url.sentinel_credentials) == (redis, sentinel)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "not a Redis URL"),
        ("localhost:6379", "not a Redis URL"),
        ("s3cret@h://", "not a Redis URL"),
        ("http://localhost", "unsupported Redis URL scheme 'http'"),
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://:6379", "no host"),
        ("redis://:s3cret@", "no host"),
        ("redis://::1", "no host"),
        ("redis://[::1", "no host"),
        ("redis://h ost", "no host"),
        ("redis://h1,h2", "no host"),
        ("redis://h:", "port"),
        ("redis://h:s3cret", "port"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:٣", "port"),
        ("redis://h/x", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/0/1", "database"),
        ("redis://user:s3/cret@h", "percent-encode"),
        ("redis://user:1?s3cret=2@h", "percent-encode"),
        ("redis://h?db=1", "'db' for redis://; it takes none; the database .* write /1 after the"),
        ("redis-sentinel://h?master=m&db=1", "the database goes into the path"),
        ("redis-cluster://h?db=1", "unknown option 'db' for redis-cluster://; it takes none$"),
        ("rediss://h?ssl_cert_reqs=none", "unknown option 'ssl_cert_reqs' .* takes ssl_ca_certs,"),
        ("redis://h?ssl_ca_certs=ca.pem", "'ssl_ca_certs' is for TLS: write rediss:// for it"),
        ("redis-sentinel://h?master=m&ssl_insecure=true", "write rediss-sentinel:// for it"),
        ("redis-cluster://h?ssl_certfile=c", "write rediss-cluster:// for it"),
        ("unix:///r.sock?ssl_ca_certs=ca.pem", "'ssl_ca_certs' is for TLS: a unix socket has none"),
        ("redis-socket:///r.sock?ssl_insecure=true", "a unix socket has none"),
        ("rediss://h?ssl_ca_certs=", "ssl_ca_certs= is empty"),
        ("rediss://h?ssl_certfile=c&ssl_password=a&s3cret=", "unknown option for rediss://"),
        ("redis-sentinel://h?master=m&sentinel_password=a&s3cret", "write an & in a password as"),
        ("rediss-sentinel://h", r"rediss-sentinel:// needs .*\?master=name"),
        ("rediss-cluster://h/1", "database 0 only"),
        ("rediss-cluster://h?db=1", "unknown option 'db'"),
        ("rediss-socket:///r.sock", "unsupported Redis URL scheme"),
        ("redis-socket://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("unix:///", "three slashes"),
        ("unix:///a%00b", "three slashes"),
        ("unix:///r.sock?db=x", "database"),
        ("unix:///r.sock?password=s3cret", "unknown option 'password' for unix://; it takes db"),
        ("redis-sentinel://h", r"\?master=name"),
        ("redis-sentinel://h?master=", r"\?master=name"),
        ("redis-sentinel://h1,,h2?master=m", "no host"),
        ("redis-sentinel://h?master=m&master=n", "twice"),
        ("redis-cluster://h/1", "database 0 only"),
        ("redis-cluster://h?master=m", "unknown option"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_the_password(
    url: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        parse_redis_url(url)
    assert "s3" not in str(refused.value)
    assert refused.value.__context__ is None


def test_a_password_is_not_in_the_repr() -> None:
    for url in (
        "redis://:s3cret@h",
        "unix://:s3cret@/s",
        "redis-sentinel://:s3cret@h?master=m&sentinel_password=s3cret2",
        "redis-cluster://:s3cret@h",
        "rediss://:s3cret@h?ssl_certfile=c&ssl_password=s3cret",
        "rediss-sentinel://:s3cret@h?master=m&ssl_certfile=c&ssl_password=s3cret",
        "rediss-cluster://:s3cret@h?ssl_certfile=c&ssl_password=s3cret",
    ):
        assert "s3cret" not in repr(parse_redis_url(url))
