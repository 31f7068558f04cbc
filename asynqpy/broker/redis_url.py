"""Redis addresses as URLs (WIRE §10): pure parsing, no I/O and no redis client.

    redis://[user:password@]host[:port][/db]
    rediss://[user:password@]host[:port][/db]         TLS; certificate and host name are verified
    redis-socket://[user:password@]/path[?db=n]       also spelt unix://
    redis-sentinel://[user:password@]h1[:p],h2[:p][/db]?master=name
    redis-cluster://[user:password@]h1[:p],h2[:p]
    rediss-sentinel://…, rediss-cluster://…           the same with TLS, also to the sentinels

- Ports default to 6379, those of sentinels to 26379; ``db`` defaults to 0. An IPv6 address stands
  in brackets.
- User name, password, socket path and option values are percent-decoded; ``+`` stays a plus.
- ``redis-sentinel``: the user and password before the ``@`` serve Redis and the sentinels alike.
  ``sentinel_username=`` and ``sentinel_password=`` in the query replace both for the sentinels;
  an empty ``sentinel_password=`` is for sentinels without one. (Go's asynq sends the URL's
  password to the sentinels only, and so cannot reach a Redis that has one.)
- With TLS the query takes ``TLS_OPTIONS`` as well.

What does not fit is a ``ValueError`` that says how to write it. It never quotes what might be a
part of a password, such as the "port" of ``redis://user:pa/ss@host``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from asynqpy.broker.tls_options import TLS_OPTIONS, Tls, tls_of

REDIS_PORT = 6379
SENTINEL_PORT = 26379


class Endpoint(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """What AUTH is given; both None where nothing is to be sent."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self.username is not None or self.password is not None


@dataclass(frozen=True)
class TcpUrl:
    endpoint: Endpoint
    db: int
    credentials: Credentials
    tls: Tls | None


@dataclass(frozen=True)
class SocketUrl:
    path: str
    db: int
    credentials: Credentials


@dataclass(frozen=True)
class SentinelUrl:
    sentinels: tuple[Endpoint, ...]
    master: str
    db: int
    credentials: Credentials
    sentinel_credentials: Credentials
    tls: Tls | None


@dataclass(frozen=True)
class ClusterUrl:
    nodes: tuple[Endpoint, ...]
    credentials: Credentials
    tls: Tls | None


RedisUrl: TypeAlias = TcpUrl | SocketUrl | SentinelUrl | ClusterUrl


@dataclass(frozen=True)
class _Parts:
    scheme: str
    credentials: Credentials
    hosts: str
    path: str
    options: Mapping[str, str]

    @property
    def has_tls(self) -> bool:
        return self.scheme.startswith("rediss")


def parse_redis_url(url: str) -> RedisUrl:
    """The address that ``url`` names; ``ValueError`` when it names none."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ValueError("not a Redis URL: write it like redis://host:6379/0")
    parse = _PARSERS.get(scheme)
    if parse is None:
        known = ", ".join(f"{name}://" for name in (*_PARSERS, "embedded"))
        raise ValueError(f"unsupported Redis URL scheme {scheme!r}: use one of {known}")
    return parse(_split(scheme, rest))


def _split(scheme: str, rest: str) -> _Parts:
    authority, path, query = _AUTHORITY_PATH_QUERY.fullmatch(rest).groups()  # type: ignore[union-attr]
    if "@" in path or "@" in query:
        raise ValueError(
            "Redis URL: an '@' after the address; percent-encode the special characters "
            "of user name, password and path (urllib.parse.quote(text, safe=''))"
        )
    userinfo, _, hosts = authority.rpartition("@")
    return _Parts(scheme, _credentials(userinfo), hosts, path, _options(query))


_AUTHORITY_PATH_QUERY = re.compile(r"([^/?]*)([^?]*)\??(.*)", re.DOTALL)  # matches any text


def _credentials(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    return Credentials(unquote(username) or None, unquote(password) or None)


def _options(query: str) -> Mapping[str, str]:
    pairs = [option.partition("=") for option in query.split("&") if option]
    options = {name: unquote(value) for name, _, value in pairs}
    if len(options) < len(pairs):
        raise ValueError("Redis URL: an option is given twice")
    return options


def _parse_tcp(parts: _Parts) -> TcpUrl:
    _allow_options(parts)
    endpoint = _endpoint(parts.hosts, REDIS_PORT)
    return TcpUrl(endpoint, _db_of_path(parts), parts.credentials, _tls(parts))


def _parse_socket(parts: _Parts) -> SocketUrl:
    _allow_options(parts, "db")
    path = unquote(parts.path)
    if parts.hosts or len(path) < 2 or "\0" in path:
        raise ValueError(
            f"Redis URL: {parts.scheme}:// needs the absolute path of a socket, "
            f"with three slashes: {parts.scheme}:///run/redis.sock"
        )
    return SocketUrl(path, _db(parts.options.get("db", "0")), parts.credentials)


def _parse_sentinel(parts: _Parts) -> SentinelUrl:
    _allow_options(parts, "master", "sentinel_username", "sentinel_password")
    sentinels = _endpoints(parts.hosts, SENTINEL_PORT)
    db = _db_of_path(parts)
    master = parts.options.get("master")
    if not master:
        raise ValueError(
            f"Redis URL: {parts.scheme}:// needs the name under which the sentinels watch the "
            "master: add ?master=name"
        )
    credentials, of_sentinels = parts.credentials, _sentinel_credentials(parts)
    return SentinelUrl(sentinels, master, db, credentials, of_sentinels, _tls(parts))


def _sentinel_credentials(parts: _Parts) -> Credentials:
    username = parts.options.get("sentinel_username")
    password = parts.options.get("sentinel_password")
    if username is None and password is None:
        return parts.credentials
    return Credentials(username or None, password or None)


def _parse_cluster(parts: _Parts) -> ClusterUrl:
    _allow_options(parts)
    nodes = _endpoints(parts.hosts, REDIS_PORT)
    if _db_of_path(parts) != 0:
        raise ValueError("Redis URL: a cluster has database 0 only; leave the path out")
    return ClusterUrl(nodes, parts.credentials, _tls(parts))


def _tls(parts: _Parts) -> Tls | None:
    return tls_of(parts.options) if parts.has_tls else None


_PARSERS: Mapping[str, Callable[[_Parts], RedisUrl]] = {
    "redis": _parse_tcp,
    "rediss": _parse_tcp,
    "redis-socket": _parse_socket,
    "unix": _parse_socket,
    "redis-sentinel": _parse_sentinel,
    "redis-cluster": _parse_cluster,
    "rediss-sentinel": _parse_sentinel,
    "rediss-cluster": _parse_cluster,
}

_SECRETS = ("ssl_password", "sentinel_password")


def _endpoints(hosts: str, default_port: int) -> tuple[Endpoint, ...]:
    return tuple(_endpoint(host, default_port) for host in hosts.split(","))


_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:,@\[\]]+))(?::([^:]*))?")


def _endpoint(text: str, default_port: int) -> Endpoint:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("Redis URL: no host where one must stand, as in redis://host:6379/0")
    ipv6, name, port = match.groups()
    return Endpoint(ipv6 or name, default_port if port is None else _port(port))


def _port(text: str) -> int:
    port = int(text) if re.fullmatch("[0-9]{1,5}", text) else 0
    if not 1 <= port <= 65535:
        raise ValueError("Redis URL: the port after the host must be a number from 1 to 65535")
    return port


def _db_of_path(parts: _Parts) -> int:
    return _db(parts.path.removeprefix("/") or "0")


def _db(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("Redis URL: the database must be a whole number, as in redis://host/0")
    return int(text)


def _allow_options(parts: _Parts, *names: str) -> None:
    names += TLS_OPTIONS if parts.has_tls else ()
    for name in parts.options:
        if name not in names:
            raise ValueError(f"Redis URL: {_unknown_option(parts, name, names)}")


def _unknown_option(parts: _Parts, name: str, names: tuple[str, ...]) -> str:
    if name in TLS_OPTIONS:
        return f"the option {name!r} is for TLS: {_with_tls(parts.scheme)}"
    known = f"it takes {', '.join(names)}" if names else "it takes none"
    if name == "db" and "cluster" not in parts.scheme:
        known += "; the database goes into the path: write /1 after the host for ?db=1"
    if any(secret in parts.options for secret in _SECRETS):
        # It may be the rest of a password with an "&" in it.
        return f"unknown option for {parts.scheme}:// (write an & in a password as %26); {known}"
    return f"unknown option {name!r} for {parts.scheme}://; {known}"


def _with_tls(scheme: str) -> str:
    secure = scheme.replace("redis", "rediss", 1)
    has_it = secure != scheme and secure in _PARSERS
    return f"write {secure}:// for it" if has_it else "a unix socket has none"
