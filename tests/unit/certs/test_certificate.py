"""Certificate: loading, checking, and keeping its key to itself."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import ssl
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fastnode import Certificate, CertificateLoadError
from fastnode.certs import key_file
from fastnode.certs.authority import Authority, IssuedCertificate
from fastnode.names import NodeName
from helpers.pki import authority, certificate, odd_certificate

NAME = NodeName.parse("a@127.0.0.1")


@pytest.fixture(scope="module")
def issued() -> IssuedCertificate:
    return authority().issue(NAME)


def encrypted(key_pem: bytes, password: bytes) -> bytes:
    return load_pem_private_key(key_pem, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
    )


def test_what_it_says(issued: IssuedCertificate) -> None:
    cert = issued.certificate()
    assert cert.subject == "CN=a@127.0.0.1"
    assert cert.issuer == "CN=test CA"
    assert set(cert.sans) == {"fastnode://a@127.0.0.1", "127.0.0.1"}
    assert cert.not_valid_before.tzinfo is UTC
    assert cert.not_valid_before < datetime.now(UTC) < cert.not_valid_after
    assert len(cert.fingerprint) == 64
    assert cert.chain == (cert.x509,)
    assert cert.serial_number == cert.x509.serial_number


def test_from_files(issued: IssuedCertificate, tmp_path: Path) -> None:
    issued.save(tmp_path / "c.pem", tmp_path / "k.pem")
    loaded = Certificate.load(tmp_path / "c.pem", str(tmp_path / "k.pem"))
    assert loaded == issued.certificate()
    assert hash(loaded) == hash(issued.certificate())


@pytest.mark.parametrize("password", ["geheim", b"geheim", lambda: "geheim"])
def test_password(issued: IssuedCertificate, password: str | bytes) -> None:
    key = encrypted(issued.key_pem, b"geheim")
    assert Certificate.from_pem(issued.cert_pem, key, password)


def test_every_load_error_says_what_to_do(
    issued: IssuedCertificate, tmp_path: Path
) -> None:
    cert, key = issued.cert_pem, issued.key_pem
    other = authority().issue(NAME).key_pem
    locked = encrypted(key, b"geheim")
    broken = cert.replace(b"A", b"!", 5)
    chain = authority().intermediate("mid").issue(NAME)
    reverse = b"".join(reversed(split(chain.cert_pem)))
    cases = [
        ((b"", key), "BEGIN CERTIFICATE"),
        ((b"garbage", key), "BEGIN CERTIFICATE"),
        ((broken, key), "BEGIN CERTIFICATE"),
        ((key, cert), "swapped"),
        ((cert, b""), "PRIVATE KEY"),
        ((cert, b"garbage"), "PRIVATE KEY"),
        ((cert, key.replace(b"A", b"!", 5)), "damaged"),
        ((cert, cert), "swapped"),
        ((cert, other), "issued together"),
        ((cert, locked), "password"),
        ((cert, locked, "wrong"), "password"),
        ((reverse, chain.key_pem), "first"),
        ((cert + authority("Other").cert_pem, key), "first"),
    ]
    for arguments, hint in cases:
        with pytest.raises(CertificateLoadError) as caught:
            Certificate.from_pem(*arguments)
        assert hint in (caught.value.hint or ""), str(caught.value)
        # Guarantee 7, wherever an error is printed: not one line of a key is in it.
        told = [*traceback.format_exception(caught.value), repr(caught.value.__dict__)]
        for pem in (key, other, locked, chain.key_pem):
            for secret in pem.decode().splitlines()[1:-1]:
                assert len(secret) < 20 or secret not in "".join(told)
    with pytest.raises(CertificateLoadError, match="nowhere"):
        Certificate.load(tmp_path / "nowhere.pem", tmp_path / "k.pem")


def split(pem: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in pem.split(end) if part]


def test_chain_with_intermediate_and_root() -> None:
    chain = authority().intermediate("mid").issue(NAME)
    cert = chain.certificate()
    assert len(cert.chain) == 2
    whole = Certificate.from_pem(chain.cert_pem + authority().cert_pem, chain.key_pem)
    assert len(whole.chain) == 3


def test_self_signed_serves_both_sides() -> None:
    cert = Certificate.self_signed("Acme", ["localhost", "127.0.0.1", "fastnode://a@b"])
    assert set(cert.sans) == {"localhost", "127.0.0.1", "fastnode://a@b"}
    assert "O=Acme" in cert.subject
    assert cert.subject == cert.issuer


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_kinds_of_keys(key: ec.EllipticCurvePrivateKey) -> None:
    cert_pem, key_pem = sign_for(authority(), key)
    certificate = Certificate.from_pem(cert_pem, key_pem)
    certificate.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def sign_for(ca: Authority, key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    template = ca.issue(NAME).certificate().x509
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .public_key(key.public_key())
    )
    signed = builder.sign(ca._key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM), pem


def test_guarantee_7_the_key_stays_inside(
    issued: IssuedCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    cert = issued.certificate()
    secret = issued.key_pem.splitlines()[1].decode()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("fastnode").info("%r %s", cert, cert)
    for text in (repr(cert), str(cert), repr(issued), caplog.text):
        assert secret not in text
    with pytest.raises(TypeError, match="private key"):
        pickle.dumps(cert)
    with pytest.raises(TypeError, match="private key"):
        copy.copy(cert)
    with pytest.raises(TypeError):
        Certificate()


def test_guarantee_7_the_key_touches_no_disk(
    issued: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    load = ssl.SSLContext.load_cert_chain

    class Context(ssl.SSLContext):
        def load_cert_chain(self, certfile: str, keyfile: str) -> None:  # type: ignore[override]
            opened.extend([certfile, keyfile])
            opened.extend(str(Path(name).readlink()) for name in (certfile, keyfile))
            load(self, certfile, keyfile)

    before = len(list(Path("/proc/self/fd").iterdir()))
    cert = issued.certificate()
    cert.load_into(Context(ssl.PROTOCOL_TLS_SERVER))
    monkeypatch.setattr(key_file, "memory_file", None)
    monkeypatch.delattr(os, "memfd_create")
    cert.load_into(Context(ssl.PROTOCOL_TLS_SERVER))
    assert all(name.startswith("/proc/self/fd/") for name in opened[:2])
    assert all("memfd:" in target for target in opened[2:4])
    assert all(name.startswith("/dev/fd/") for name in opened[4:6])
    assert all("pipe:" in target for target in opened[6:8])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_pipe_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(key_file, "PIPE_BYTES", 100)
    with pytest.raises(CertificateLoadError, match="pipe"):
        certificate("a@127.0.0.1").load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_expired() -> None:
    now = datetime.now(UTC)
    assert not certificate("a@127.0.0.1").expired
    assert odd_certificate(
        "a@127.0.0.1", not_before=now.replace(year=2020), not_after=now
    ).expired


def test_hosts_become_sans_in_the_form_that_peers_look_for() -> None:
    hosts = ["[::1]", "LocalHost.", "B\u00fccher.example", "*.Example.COM.", "10.0.0.5"]
    assert Certificate.self_signed("x", hosts).sans == (
        "::1",
        "localhost",
        "xn--bcher-kva.example",
        "*.example.com",
        "10.0.0.5",
    )
