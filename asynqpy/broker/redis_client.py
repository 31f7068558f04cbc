"""How a redis client is built: plans, made from a URL or from a client that the caller owns.

Every client built here sends a command once (DESIGN §3 rule 9): redis-py would repeat it after a
lost connection, although Redis may have run it. Answers are bytes in RESP2, which all supported
versions of redis-py hand over alike; left to themselves, the later ones would speak RESP3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider

from asynqpy.broker.master_watch import MasterPool, MasterWatch
from asynqpy.broker.redis_url import (
    ClusterUrl,
    Credentials,
    Endpoint,
    RedisUrl,
    SentinelUrl,
    SocketUrl,
    TcpUrl,
)
from asynqpy.broker.sentinel_line import ANSWER_TIMEOUT
from asynqpy.broker.tls import SentinelTlsConnection, TlsConnection, TlsFiles
from asynqpy.broker.tls_options import Tls

CONNECT_TIMEOUT = 5.0
"""Seconds to open a connection: two lost SYNs (1 + 2 s), and still a quick "no" for a dead host."""

SOCKET_TIMEOUT = 10.0
"""Seconds to wait for an answer. A batch takes Redis milliseconds; a fork or a slow disk, seconds.
A third of a lease (30 s), so that an extension that got no answer can be tried again in time."""

MAX_CONNECTIONS = 20
"""Per client. At a round trip of 1 ms they carry 20,000 commands a second, more than one event
loop sends; and 500 clients stay within Redis's own limit of 10,000 connections."""

POOL_TIMEOUT = 30.0
"""Seconds to wait for a free connection. A healthy Redis frees one in milliseconds; this long
means that three answers in a row timed out, and that is an error rather than a queue."""

Options: TypeAlias = Mapping[str, Any]
"""Keyword arguments of a redis-py connection."""


@dataclass(frozen=True)
class SinglePlan:
    """One Redis, by TCP, TLS or unix socket."""

    description: str
    connection_class: type[AbstractConnection]
    options: Options = field(repr=False)

    def build(self) -> Redis:
        pool = BlockingConnectionPool(
            max_connections=MAX_CONNECTIONS,
            timeout=POOL_TIMEOUT,
            connection_class=self.connection_class,
            **_settings(self.options),
        )
        return Redis(connection_pool=pool)


@dataclass(frozen=True)
class SentinelPlan:
    """The master of a name, wherever the sentinels say it is."""

    description: str
    connection_class: type[AbstractConnection]
    options: Options = field(repr=False)
    master: str
    sentinels: tuple[Endpoint, ...]
    sentinel_options: Options = field(repr=False)
    watch: MasterWatch = field(default_factory=MasterWatch, repr=False, compare=False)

    def build(self) -> Redis:
        pool = MasterPool(
            self.master,
            self.watch,
            {sentinel: self._pool_of(sentinel) for sentinel in self.sentinels},
            max_connections=MAX_CONNECTIONS,
            timeout=POOL_TIMEOUT,
            connection_class=self.connection_class,
            **_settings(self.options),
        )
        return Redis(connection_pool=pool)

    def _pool_of(self, sentinel: Endpoint) -> ConnectionPool:
        settings = _settings(_quicker(self.sentinel_options, ANSWER_TIMEOUT))
        kind = _connection_class(settings)
        return ConnectionPool(kind, host=sentinel.host, port=sentinel.port, **settings)


@dataclass(frozen=True)
class ClusterPlan:
    """A cluster, found through any of its nodes; ``cluster_exchange.py`` talks to them."""

    description: str
    nodes: tuple[Endpoint, ...]
    options: Options = field(repr=False)

    def reached(self, announced: Endpoint) -> Endpoint:
        """Where a node is reached that announces itself at this address."""
        remap = self.options.get("address_remap")
        return Endpoint(*remap(tuple(announced))) if remap else announced

    def one_node(self, node: Endpoint) -> SinglePlan:
        options = {"host": node.host, "port": node.port, **self.options}
        options.pop("address_remap", None)
        return SinglePlan(f"{node}/0", _connection_class(options), options)


def _connection_class(options: dict[str, Any]) -> type[AbstractConnection]:
    """For an address, by these options; takes those away that say no more than this."""
    has_tls = options.pop("ssl", False)
    if "tls" in options:
        return TlsConnection
    if has_tls:
        return SSLConnection
    for name in [name for name in options if name.startswith("ssl")]:
        del options[name]  # redis-py's own clients pass over them as well
    return Connection


Plan: TypeAlias = SinglePlan | SentinelPlan | ClusterPlan


def quicker(plan: Plan, timeout: float) -> Plan:
    """The plan for a client that waits at most so many seconds, to connect and for an answer."""
    if isinstance(plan, SentinelPlan):
        sentinel_options = _quicker(plan.sentinel_options, timeout)
        plan = replace(plan, sentinel_options=sentinel_options)
    return replace(plan, options=_quicker(plan.options, timeout))


def _quicker(options: Options, timeout: float) -> Options:
    names = ("socket_connect_timeout", "socket_timeout")
    return {**options, **{name: min(timeout, options.get(name) or timeout) for name in names}}


def _settings(options: Options) -> dict[str, Any]:
    """The options over our timeouts, and what holds for every client of ours."""
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": SOCKET_TIMEOUT,
        **options,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }


def plan_of_url(url: RedisUrl) -> Plan:
    """Raises ``ValueError`` when a file that it names cannot be used."""
    match url:
        case TcpUrl(endpoint, db):
            where = f"{endpoint}/{db}"
            options = {"host": endpoint.host, "port": endpoint.port, "db": db}
            options |= _tcp(url.credentials) | _spoken(url.tls, where)
            return SinglePlan(where, TlsConnection if url.tls else Connection, options)
        case SocketUrl(path, db, credentials):
            options = {"path": path, "db": db, **_auth(credentials)}
            return SinglePlan(f"{path}?db={db}", UnixDomainSocketConnection, options)
        case SentinelUrl():
            return _sentinel_plan(url)
        case ClusterUrl(nodes, credentials):
            where = f"cluster {_list(nodes)}"
            return ClusterPlan(where, nodes, _tcp(credentials) | _spoken(url.tls, where))


def _tcp(credentials: Credentials) -> dict[str, Any]:
    return {"socket_keepalive": True, **_auth(credentials)}


def _spoken(tls: Tls | None, where: str) -> dict[str, Any]:
    return {} if tls is None else {"tls": TlsFiles(tls, where)}


def _sentinel_plan(url: SentinelUrl) -> SentinelPlan:
    where = f"{url.master}/{url.db} by sentinels {_list(url.sentinels)}"
    tls = _spoken(url.tls, where)
    return SentinelPlan(
        where,
        SentinelTlsConnection if url.tls else SentinelManagedConnection,
        {"db": url.db, **_tcp(url.credentials), **tls},
        url.master,
        url.sentinels,
        {**_tcp(url.sentinel_credentials), **tls},
    )


def _list(endpoints: tuple[Endpoint, ...]) -> str:
    return ",".join(str(endpoint) for endpoint in endpoints)


def _auth(credentials: Credentials) -> Options:
    if not credentials:
        return {}
    # Not as username= and password=: some versions of redis-py show those in reprs and errors.
    provider = UsernamePasswordCredentialProvider(credentials.username, credentials.password)
    return {"credential_provider": provider}


def plan_of_client(client: Redis | RedisCluster) -> Plan:
    """How to build another client for the Redis of this one: same address, user and TLS."""
    if isinstance(client, RedisCluster):
        return _plan_of_cluster(client)
    pool = client.connection_pool
    options = _kept(pool.connection_kwargs)
    if isinstance(pool, SentinelConnectionPool):
        return _plan_of_sentinel_pool(pool, options)
    host, port = options.get("host", "localhost"), int(options.get("port", 6379))
    address = f"{options['path']}?db=" if "path" in options else f"{Endpoint(host, port)}/"
    return SinglePlan(f"{address}{options.get('db', 0)}", pool.connection_class, options)


def _plan_of_sentinel_pool(pool: SentinelConnectionPool, options: Options) -> SentinelPlan:
    manager: Sentinel = pool.sentinel_manager
    addresses = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    sentinels = tuple(Endpoint(address["host"], int(address["port"])) for address in addresses)
    return SentinelPlan(
        f"{pool.service_name}/{options.get('db', 0)} by sentinels {_list(sentinels)}",
        pool.connection_class,
        options,
        pool.service_name,
        sentinels,
        _kept(manager.sentinel_kwargs),
    )


def _plan_of_cluster(cluster: RedisCluster) -> ClusterPlan:
    manager = cluster.nodes_manager
    nodes = tuple(Endpoint(node.host, int(node.port)) for node in manager.startup_nodes.values())
    options = _kept(cluster.connection_kwargs)
    options.pop("redis_connect_func", None)  # only for reading from replicas
    if issubclass(cluster.connection_kwargs["connection_class"], SSLConnection):
        options["ssl"] = True
    if manager.address_remap:
        options["address_remap"] = manager.address_remap
    return ClusterPlan(f"cluster {_list(nodes)}", nodes, options)


_KEPT = {
    "client_name",
    "credential_provider",
    "db",
    "health_check_interval",
    "host",
    "path",
    "port",
    "redis_connect_func",
}
"""With ``socket_…`` and ``ssl…``: what says where Redis is and who asks. The rest of a client's
options is how it behaves, or belongs to its own pool."""


def _kept(options: Options) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in options.items()
        # Of TLS a None counts as well: ssl_cert_reqs=None verifies nothing.
        if name.startswith("ssl")
        or (value is not None and (name in _KEPT or name.startswith("socket_")))
    }
    if "username" in options or "password" in options:
        kept |= _auth(Credentials(options.get("username"), options.get("password")))
    return kept
