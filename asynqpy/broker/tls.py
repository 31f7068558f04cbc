"""TLS of the connections that a URL makes: its files, read when they are new, and connection classes for them.

redis-py lacks some of it in versions that are supported (a password of the key, a name to verify). It also trusts the
system's authorities beside the one it is given, and reads all of them again for each connection.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from asynqpy.broker.tls_options import Tls

logger = logging.getLogger("asynqpy.broker")

#: The part of the time to connect after which a handshake is given up, to be told as what it is: a server without TLS
#: may wait for the end of a line for ever.
_HANDSHAKE_SHARE = 0.8

#: What ``openssl rehash`` calls a certificate, by which OpenSSL finds it.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")

_Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]

#: Addresses of which the log says already that nothing is verified.
_unverified: set[str] = set()


class TlsFiles:
    """The contexts of all connections to one Redis, at ``where``, which is a description for the log.

    A file that changes, as certificates do before they expire, counts from the next connection on; as long as the new
    one cannot be used, the one before does.
    """

    def __init__(self, tls: Tls, where: str) -> None:
        """Raises ``ValueError`` when a file cannot be used. It quotes paths, and no password."""
        self.server_name = tls.server_name
        self._tls = tls
        self._where = where
        names = ("ca_certs", "certfile", "keyfile")
        self._paths = {
            name: Path(path).absolute() for name in names if (path := getattr(tls, name))
        }
        self._stamp = self._stamp_now()
        self._context = self._load()
        self._check_server_name()
        if tls.insecure and where not in _unverified:
            _unverified.add(where)
            logger.warning(
                "the certificate of Redis at %s is not verified (ssl_insecure=true): whoever is on the way to it "
                "can read and change everything",
                where,
            )

    def __repr__(self) -> str:
        return f"<TlsFiles {self._tls!r}>"

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._load()
            except ValueError as error:
                logger.warning("%s; for Redis at %s what it was before is used", error, self._where)
        return self._context

    def _stamp_now(self) -> _Stamp:
        return tuple(_stamp_of(path) for path in self._paths.values())

    def _load(self) -> ssl.SSLContext:
        authorities, certificate, key = map(self._paths.get, ("ca_certs", "certfile", "keyfile"))
        for name, path in self._paths.items():
            _check_readable(f"ssl_{name}", path)
        context = _trusting(authorities)
        if self._tls.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            _show(context, certificate, key, self._tls.password)
        return context

    def _check_server_name(self) -> None:
        if self.server_name is None:
            return
        try:
            self._context.wrap_bio(
                ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=self.server_name
            )
        except (ValueError, ssl.SSLError):
            raise ValueError("Redis URL: ssl_server_name is no name of a host") from None


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # The last one grows with the rights as well: a file that was not readable yet is not given up.
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _check_readable(name: str, path: Path) -> None:
    try:
        if name == "ssl_ca_certs" and path.is_dir():
            if not any(_HASHED.fullmatch(it.name) for it in path.iterdir()):
                raise ValueError(
                    f"Redis URL: {name}={path} is a folder in which OpenSSL finds nothing: "
                    "run `openssl rehash` on it, or name a file"
                )
            return
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"Redis URL: {name}={path}: {error.strerror}") from None


def _trusting(authorities: Path | None) -> ssl.SSLContext:
    if authorities is None:
        return ssl.create_default_context()
    try:
        if authorities.is_dir():
            return ssl.create_default_context(capath=authorities)
        return ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError):
        raise ValueError(
            f"Redis URL: ssl_ca_certs={authorities} has no certificate in PEM"
        ) from None


def _show(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: str | None
) -> None:
    was_asked = False

    def tell() -> str:  # or OpenSSL would ask the terminal
        nonlocal was_asked
        was_asked = True
        return password or ""

    try:
        context.load_cert_chain(certificate, key, tell)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ValueError(
            f"Redis URL: {_reason(error, certificate, key, was_asked, password)}"
        ) from None


def _reason(
    error: Exception, certificate: Path, key: Path | None, was_asked: bool, password: str | None
) -> str:
    if was_asked:
        of = f"the key in {key or certificate} is encrypted"
        return (
            f"{of}, and ssl_password does not open it" if password else f"{of}: add ssl_password="
        )
    if "KEY_VALUES_MISMATCH" in str(error):
        return f"ssl_keyfile={key} is not the key of ssl_certfile={certificate}"
    if key is None:
        return f"ssl_certfile={certificate} has no certificate and key in PEM: add ssl_keyfile="
    return f"ssl_certfile={certificate} has no certificate or ssl_keyfile={key} no key in PEM"


class _Spoken:
    """For a connection class of redis-py's: TLS by ``tls`` instead of its own options."""

    def __init__(self, *, tls: TlsFiles, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        assert isinstance(self, SSLConnection)
        # Not those of the SSLConnection, which would make a context of its own each time.
        arguments = {**Connection._connection_arguments(self), "ssl": self._tls.context()}
        if self._tls.server_name is not None:
            arguments["server_hostname"] = self._tls.server_name
        if self.socket_connect_timeout:
            arguments["ssl_handshake_timeout"] = _HANDSHAKE_SHARE * self.socket_connect_timeout
        return arguments


class TlsConnection(_Spoken, SSLConnection):
    """To an address."""


class SentinelTlsConnection(_Spoken, SentinelManagedSSLConnection):
    """To the master that sentinels name."""
