from __future__ import annotations

import pytest

from asynqpy.broker.tls_options import Tls, tls_of


def test_by_default_the_systems_authorities_are_trusted_and_nothing_is_shown() -> None:
    assert tls_of({}) == Tls(None, None, None, None, None, False)


def test_every_option_is_read() -> None:
    options = {
        "ssl_ca_certs": "ca.pem",
        "ssl_certfile": "client.pem",
        "ssl_keyfile": "client.key",
        "ssl_password": "s3cret",
        "ssl_server_name": "redis.internal",
        "ssl_insecure": "false",
        "master": "m",
    }
    assert tls_of(options) == Tls(
        "ca.pem", "client.pem", "client.key", "s3cret", "redis.internal", False
    )


def test_a_certificate_may_bring_its_key_along() -> None:
    both = {"ssl_certfile": "both.pem", "ssl_password": "s3cret"}
    assert tls_of(both) == Tls(certfile="both.pem", password="s3cret")


def test_a_name_may_be_told_to_a_server_that_is_not_verified() -> None:
    options = {"ssl_insecure": "true", "ssl_server_name": "redis.internal"}
    assert tls_of(options) == Tls(server_name="redis.internal", insecure=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ssl_ca_certs": ""}, "ssl_ca_certs= is empty"),
        ({"ssl_certfile": "s3cret\0"}, "ssl_certfile= is empty, or no text"),
        ({"ssl_certfile": "c", "ssl_password": ""}, "ssl_password= is empty"),
        ({"ssl_insecure": "s3cret"}, "true or false"),
        ({"ssl_insecure": "true", "ssl_ca_certs": "s3cret"}, "leave one of them out"),
        ({"ssl_keyfile": "s3cret"}, "ssl_keyfile needs the ssl_certfile"),
        ({"ssl_password": "s3cret"}, "ssl_password needs an ssl_certfile"),
        ({"ssl_password": "s3cret", "ssl_keyfile": "k"}, "ssl_keyfile needs"),
    ],
)
def test_what_does_not_fit_is_refused_without_showing_it(
    options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        tls_of(options)
    assert "s3cret" not in str(refused.value)


def test_the_password_of_a_key_is_not_in_the_repr() -> None:
    assert "s3cret" not in repr(tls_of({"ssl_certfile": "c", "ssl_password": "s3cret"}))
