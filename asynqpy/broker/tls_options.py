"""What a URL says about TLS, in redis-py's words where it has some. Pure parsing: nothing is read.

ssl_ca_certs=      the authorities that are trusted instead of the system's: a file, or a folder
                   with names by hash as ``openssl rehash`` makes them
ssl_certfile=      the certificate to show, with its chain; also its key, unless there is
ssl_keyfile=       a file for that
ssl_password=      of an encrypted key
ssl_server_name=   the name that the certificate of Redis must bear instead of its host, also
                   told to it (SNI)
ssl_insecure=true  nothing is verified
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_server_name",
    "ssl_insecure",
)


@dataclass(frozen=True)
class Tls:
    """Whom to trust, and what to show."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    server_name: str | None = None
    insecure: bool = False


def tls_of(options: Mapping[str, str]) -> Tls:
    """Of the options those about TLS. ``ValueError`` when they do not fit; it quotes no value."""
    given = {name: options[name] for name in TLS_OPTIONS if name in options}
    for name, value in given.items():
        if not value or "\0" in value:
            raise ValueError(
                f"Redis URL: {name}= is empty, or no text: fill it in, or leave it out"
            )
    insecure = given.pop("ssl_insecure", "false")
    if insecure not in ("true", "false"):
        raise ValueError("Redis URL: ssl_insecure must be true or false")
    values = {name.removeprefix("ssl_"): value for name, value in given.items()}
    tls = Tls(**values, insecure=insecure == "true")
    _check(tls)
    return tls


def _check(tls: Tls) -> None:
    if tls.insecure and tls.ca_certs is not None:
        raise ValueError(
            "Redis URL: ssl_ca_certs says whom to trust, and ssl_insecure=true that nobody is "
            "verified: leave one of them out"
        )
    if tls.certfile is None and tls.keyfile is not None:
        raise ValueError("Redis URL: ssl_keyfile needs the ssl_certfile that it is the key of")
    if tls.certfile is None and tls.password is not None:
        raise ValueError("Redis URL: ssl_password needs an ssl_certfile whose key it opens")
