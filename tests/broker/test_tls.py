from __future__ import annotations

import logging
import os
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from asynqpy.broker import tls
from asynqpy.broker.tls import SentinelTlsConnection, TlsConnection, TlsFiles
from asynqpy.broker.tls_options import Tls
from tests.topologies.tls import Certificates

WHERE = "redis.test:6379/0"


@pytest.fixture
def copied(certificates: Certificates, tmp_path: Path) -> Certificates:
    """Files that a test may change."""
    shutil.copytree(certificates.folder, tmp_path / "copy")
    return Certificates(tmp_path / "copy")


def shown(certificates: Certificates) -> Tls:
    return Tls(certfile=str(certificates.client), keyfile=str(certificates.client_key))


def encrypt(key: Path, password: str) -> None:
    opened = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        opened.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )


def refused(tls: Tls) -> str:
    with pytest.raises(ValueError) as error:
        TlsFiles(tls, WHERE)
    return str(error.value)


def trusted(context: ssl.SSLContext) -> list[object]:
    return [certificate["serialNumber"] for certificate in context.get_ca_certs()]


def serial(certificate: Path) -> list[object]:
    return trusted(ssl.create_default_context(cafile=certificate))


def test_certificate_and_name_are_verified_by_default() -> None:
    context = TlsFiles(Tls(), WHERE).context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats() == ssl.create_default_context().cert_store_stats()


def test_an_authority_is_trusted_instead_of_the_systems(certificates: Certificates) -> None:
    context = TlsFiles(Tls(ca_certs=str(certificates.ca)), WHERE).context()
    assert trusted(context) == serial(certificates.ca)
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_folder_of_authorities_has_names_by_hash(copied: Certificates) -> None:
    tls = Tls(ca_certs=str(copied.folder))
    assert "openssl rehash" in refused(tls)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", "rehash", str(copied.folder)], check=True, capture_output=True)
    assert TlsFiles(tls, WHERE).context().verify_mode is ssl.CERT_REQUIRED


def test_insecure_verifies_nothing_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tls = Tls(insecure=True)
    for _ in range(3):
        context = TlsFiles(tls, "insecure.test:6379/0").context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "insecure.test:6379/0 is not verified (ssl_insecure=true)" in line.getMessage()


def test_a_key_may_be_in_the_file_of_its_certificate(copied: Certificates) -> None:
    assert "add ssl_keyfile=" in refused(Tls(certfile=str(copied.client)))
    copied.client.write_bytes(copied.client.read_bytes() + copied.client_key.read_bytes())
    TlsFiles(Tls(certfile=str(copied.client)), WHERE)


def test_an_encrypted_key_is_opened_by_its_password_and_nobody_asks_for_it(
    copied: Certificates,
) -> None:
    encrypt(copied.client_key, "s3cret")
    tls = shown(copied)
    assert refused(tls).endswith(f"{copied.client_key} is encrypted: add ssl_password=")
    assert "ssl_password does not open it" in refused(replace(tls, password="hidden"))
    assert "hidden" not in refused(replace(tls, password="hidden" * 1000))
    files = TlsFiles(replace(tls, password="s3cret"), WHERE)
    assert "s3cret" not in repr(files)


def test_files_that_cannot_be_used_are_named(
    copied: Certificates, other_certificates: Certificates, tmp_path: Path
) -> None:
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("no PEM")
    tls = shown(copied)
    assert f"ssl_ca_certs={missing}: No such file" in refused(Tls(ca_certs=str(missing)))
    assert f"ssl_certfile={missing}: No such file" in refused(replace(tls, certfile=str(missing)))
    assert f"ssl_keyfile={missing}: No such file" in refused(replace(tls, keyfile=str(missing)))
    assert f"ssl_keyfile={tmp_path}: Is a dir" in refused(replace(tls, keyfile=str(tmp_path)))
    assert f"ssl_ca_certs={text} has no certificate" in refused(Tls(ca_certs=str(text)))
    assert f"ssl_keyfile={text} no key in PEM" in refused(replace(tls, keyfile=str(text)))
    alien = replace(tls, keyfile=str(other_certificates.client_key))
    assert f"ssl_keyfile={other_certificates.client_key} is not the key of" in refused(alien)


@pytest.mark.parametrize("name", [".internal", "a" * 70 + ".internal", "a..b"])
def test_a_name_to_verify_must_be_one(name: str) -> None:
    assert "ssl_server_name" in refused(Tls(server_name=name))


def touch(path: Path) -> None:
    """Show that the file is another, also where the clock of files is coarse."""
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def test_a_renewed_file_counts_from_the_next_connection_on(
    copied: Certificates, other_certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(Tls(ca_certs=str(copied.ca)), WHERE)
    before = files.context()
    assert files.context() is before
    shutil.copy(other_certificates.ca, copied.ca)
    touch(copied.ca)
    assert trusted(files.context()) == serial(other_certificates.ca) != trusted(before)
    assert not caplog.records


def test_as_long_as_a_renewed_file_cannot_be_used_the_one_before_is(
    copied: Certificates, other_certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(shown(copied), WHERE)
    before = files.context()
    shutil.copy(other_certificates.client, copied.client)
    touch(copied.client)
    assert files.context() is files.context() is before
    (line,) = caplog.records
    assert "is not the key of" in line.getMessage()
    copied.client_key.unlink()
    assert files.context() is before
    shutil.copy(other_certificates.client_key, copied.client_key)
    assert files.context() is not before


def test_a_renewed_file_that_may_not_be_read_at_first_counts_once_it_may(
    copied: Certificates, other_certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TlsFiles(Tls(ca_certs=str(copied.ca)), WHERE)
    before = files.context()
    shutil.copy(other_certificates.ca, copied.ca)
    touch(copied.ca)
    with monkeypatch.context() as unreadable:  # by others than root, who runs tests at times
        unreadable.setattr(tls, "_check_readable", refuse_to_read)
        assert files.context() is before
    change_rights(copied.ca)
    assert trusted(files.context()) == serial(other_certificates.ca)


def refuse_to_read(name: str, path: Path) -> None:
    raise ValueError(f"Redis URL: {name}={path}: Permission denied")


def change_rights(path: Path) -> None:
    """And nothing else of it, also where the clock of files is coarse."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(0o644)


def test_relative_paths_stay_where_they_were(
    copied: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(copied.folder)
    files = TlsFiles(Tls(ca_certs="ca.pem"), WHERE)
    monkeypatch.chdir("/")
    assert trusted(files.context()) == serial(copied.ca)
    assert not caplog.records


def test_connections_speak_it_by_name_and_give_up_in_time() -> None:
    files = TlsFiles(Tls(server_name="redis.internal"), WHERE)
    where = {"host": "h", "port": 1, "socket_connect_timeout": 5.0}
    for connection in (
        TlsConnection(tls=files, **where),
        SentinelTlsConnection(tls=files, connection_pool=None, **where),
    ):
        assert connection._connection_arguments() == {
            "host": "h",
            "port": 1,
            "ssl": files.context(),
            "server_hostname": "redis.internal",
            "ssl_handshake_timeout": 4.0,
        }


def test_by_default_it_is_the_host_that_must_be_named() -> None:
    direct = TlsConnection(tls=TlsFiles(Tls(), WHERE), host="h", port=1)
    assert "server_hostname" not in direct._connection_arguments()
