"""The files that certificates and keys come in, proven by handshakes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from fastnode import Certificate, CertificateLoadError
from fastnode.certs import private_key
from fastnode.certs.authority import IssuedCertificate
from fastnode.names import NodeName
from helpers.handshake import handshake
from helpers.pki import authority, certificate, manager

NAME = NodeName.parse("a@127.0.0.1")
PASSWORD = b"geheim"

KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.fixture(scope="module")
def chained() -> IssuedCertificate:
    return authority().intermediate("format CA").issue(NAME)


def key_pem(key: Any, password: bytes | None = None, *, old: bool = False) -> bytes:
    form = PrivateFormat.TraditionalOpenSSL if old else PrivateFormat.PKCS8
    how = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, form, how)
    return pem


def encrypted(pem: bytes, *, old: bool = False) -> bytes:
    return key_pem(load_pem_private_key(pem, None), PASSWORD, old=old)


def prove(cert: Certificate) -> None:
    """The pair works on both sides of mutual TLS."""
    one, other = manager(str(NAME), shows=cert), manager(str(NAME))
    handshake(one.server_context(), other.client_context())
    server, _client = handshake(other.server_context(), one.client_context())
    shown = server.getpeercert(binary_form=True)
    assert shown == cert.x509.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (kind, form)
        for kind in KEYS
        for form in ("plain", "PKCS#8", "traditional", "PKCS#12")
        # RFC 8410 gives Ed25519 no form but PKCS#8.
        if (kind, form) != ("Ed25519", "traditional")
    ],
)
def test_every_kind_of_key_serves_both_sides(kind: str, form: str) -> None:
    key = KEYS[kind]()
    issued = authority().issue(NAME, key=key)
    if form == "PKCS#12":
        data = pkcs12.serialize_key_and_certificates(
            b"node",
            key,
            issued.certificate().x509,
            None,
            BestAvailableEncryption(PASSWORD),
        )
        prove(Certificate.from_pkcs12(data, PASSWORD))
    elif form == "plain":
        prove(Certificate.from_pem(issued.cert_pem, issued.key_pem))
    else:
        pem = key_pem(key, PASSWORD, old=form == "traditional")
        assert b"ENCRYPTED" in pem
        prove(Certificate.from_pem(issued.cert_pem, pem, PASSWORD))


# --- one file -------------------------------------------------------------------------


@pytest.mark.parametrize("key_first", [True, False])
@pytest.mark.parametrize("locked", ["no", "PKCS#8", "traditional"])
def test_key_and_certificate_in_one_file(
    chained: IssuedCertificate, tmp_path: Path, key_first: bool, locked: str
) -> None:
    key = chained.key_pem
    if locked != "no":
        key = encrypted(key, old=locked == "traditional")
    parts = [key, chained.cert_pem] if key_first else [chained.cert_pem, key]
    file = tmp_path / "both.pem"
    file.write_bytes(b"Bag Attributes: a comment\n" + b"\n".join(parts))
    for made in (
        Certificate.load(file, password=PASSWORD),
        Certificate.load(file, file, PASSWORD),
        Certificate.load(str(file), password=PASSWORD.decode()),
        Certificate.from_pem(file.read_bytes(), password=PASSWORD),
        Certificate.from_pem(file.read_text(), file.read_text(), PASSWORD),
    ):
        assert made.chain == chained.certificate().chain
    prove(made)


def test_parameters_before_the_key_as_openssl_writes_them() -> None:
    parameters = (
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n"
        b"-----END EC PARAMETERS-----\n"
    )
    issued = authority().issue(NAME)
    old = key_pem(load_pem_private_key(issued.key_pem, None), old=True)
    crlf = (parameters + old + issued.cert_pem).replace(b"\n", b"\r\n")
    assert Certificate.from_pem(crlf) == issued.certificate()


# --- passwords ------------------------------------------------------------------------


def test_a_callable_is_asked_once_and_only_when_needed() -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return PASSWORD.decode()

    issued = authority().issue(NAME)
    Certificate.from_pem(issued.cert_pem, issued.key_pem, ask)
    Certificate.from_pkcs12(p12(issued, None), ask)
    assert asked == []
    Certificate.from_pem(issued.cert_pem, encrypted(issued.key_pem), ask)
    assert asked == [1]
    Certificate.from_pkcs12(p12(issued, PASSWORD), ask)
    assert asked == [1, 1]


def p12(
    issued: IssuedCertificate,
    password: bytes | None,
    others: tuple[x509.Certificate, ...] = (),
) -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return pkcs12.serialize_key_and_certificates(
        b"node",
        load_pem_private_key(issued.key_pem, None),  # type: ignore[arg-type]
        issued.certificate().x509,
        list(others),
        how,
    )


def raises() -> str:
    raise OSError("the vault is closed")


@pytest.mark.parametrize(
    ("password", "cause", "remedy"),
    [
        (None, "encrypted|without a password", "pass its password"),
        ("", "no private key|no PKCS#12", "password is wrong"),
        ("falsch", "no private key|no PKCS#12", "password is wrong"),
        (b"\xff\x00", "no private key|no PKCS#12", "password is wrong"),
        (lambda: "falsch", "no private key|no PKCS#12", "password is wrong"),
        (lambda: None, "NoneType", "str, bytes"),
        (7, "int", "str, bytes"),
        (raises, "OSError", "callable"),
    ],
)
@pytest.mark.parametrize("form", ["PKCS#8", "traditional", "PKCS#12"])
def test_passwords_that_do_not_work(
    tmp_path: Path, password: Any, cause: str, remedy: str, form: str
) -> None:
    issued = authority().issue(NAME)
    file = tmp_path / "node.file"
    with pytest.raises(CertificateLoadError, match=cause) as caught:
        if form == "PKCS#12":
            file.write_bytes(p12(issued, PASSWORD))
            Certificate.load_pkcs12(file, password)
        else:
            key = encrypted(issued.key_pem, old=form == "traditional")
            file.write_bytes(issued.cert_pem + key)
            Certificate.load(file, password=password)
    assert "node.file" in caught.value.message
    assert remedy in (caught.value.hint or "")


def test_a_wrong_password_that_gives_what_looks_like_a_key(tmp_path: Path) -> None:
    """There is no checksum: by chance the library reads a key of an unknown kind."""
    issued = authority().issue(NAME)
    file = tmp_path / "node.file"
    file.write_bytes(issued.cert_pem + encrypted(issued.key_pem, old=False))
    load = load_pem_private_key
    tries: list[bytes] = []

    def once(block: bytes, secret: bytes) -> Any:
        tries.append(secret)
        if len(tries) == 1:
            raise UnsupportedAlgorithm("a key of an unknown kind")
        return load(block, secret)

    with (
        mock.patch.object(private_key, "load_pem_private_key", once),
        pytest.raises(CertificateLoadError, match="no private key") as caught,
    ):
        Certificate.load(file, password="falsch")
    assert "password is wrong" in (caught.value.hint or "")
    assert len(set(tries)) == 2


# --- PKCS#12 --------------------------------------------------------------------------


def test_pkcs12_chain_in_any_order(chained: IssuedCertificate, tmp_path: Path) -> None:
    middle = chained.certificate().chain[1]
    stranger = certificate("b@127.0.0.1", "Other CA").x509
    for order in permutations([middle, authority().x509, stranger]):
        made = Certificate.from_pkcs12(p12(chained, PASSWORD, order), PASSWORD)
        assert made.chain == (chained.certificate().x509, middle, authority().x509)
    (tmp_path / "node.p12").write_bytes(p12(chained, None, (middle,)))
    loaded = Certificate.load_pkcs12(tmp_path / "node.p12")
    assert loaded == chained.certificate()
    prove(loaded)


@pytest.mark.parametrize("password", [b"", b"geheim"])
def test_pkcs12_as_openssl_writes_it(
    chained: IssuedCertificate, tmp_path: Path, password: bytes
) -> None:
    (tmp_path / "c.pem").write_bytes(chained.cert_pem)
    (tmp_path / "k.pem").write_bytes(chained.key_pem)
    out = tmp_path / "node.p12"
    command = ["openssl", "pkcs12", "-export", "-in", "c.pem", "-inkey", "k.pem"]
    command += ["-out", str(out), "-passout", f"pass:{password.decode()}"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=20)
    assert Certificate.load_pkcs12(out, password or None) == chained.certificate()


def test_pkcs12_that_cannot_be_used(tmp_path: Path) -> None:
    issued, other = authority().issue(NAME), authority().issue(NAME)
    key = load_pem_private_key(issued.key_pem, None)
    no_key = pkcs12.serialize_key_and_certificates(
        None, None, None, [issued.certificate().x509], NoEncryption()
    )
    no_certificate = pkcs12.serialize_key_and_certificates(
        None,
        key,  # type: ignore[arg-type]
        None,
        [other.certificate().x509],
        NoEncryption(),
    )
    good = p12(issued, PASSWORD)
    for data, cause, remedy in (
        (no_key, "no private key", "-inkey"),
        (no_certificate, "none for its key", "issued together"),
        (good[:-30], "PKCS#12", "damaged"),
        (b"", "PKCS#12", "damaged"),
        (b"garbage", "PKCS#12", "damaged"),
        (issued.cert_pem, "PEM", "Certificate.load"),
    ):
        (tmp_path / "node.p12").write_bytes(data)
        with pytest.raises(CertificateLoadError, match=cause) as caught:
            Certificate.load_pkcs12(tmp_path / "node.p12", PASSWORD)
        assert "node.p12" in str(caught.value)
        assert remedy in (caught.value.hint or "")
    with pytest.raises(CertificateLoadError, match="nowhere"):
        Certificate.load_pkcs12(tmp_path / "nowhere.p12")


# --- what is wrong with a file --------------------------------------------------------


def test_every_failure_names_file_cause_and_remedy(tmp_path: Path) -> None:
    issued, other = authority().issue(NAME), authority().issue(NAME)
    cert, key = issued.cert_pem, issued.key_pem
    montgomery = key_pem(x25519.X25519PrivateKey.generate())
    odd_curve = key_pem(ec.generate_private_key(ec.SECP256K1()))
    der = issued.certificate().x509.public_bytes(Encoding.DER)
    for data, cause, remedy in (
        (cert, "no private key", "file of its own"),
        (key, "no certificate", "swapped"),
        (cert + key[:-20], "no private key", "written to its end"),
        (key + cert[:-20], "no certificate", "cut"),
        (cert + other.key_pem, "not that of its first", "issued together"),
        (cert + key + other.key_pem, "2 private keys", "only the key"),
        (cert + key.replace(b"M", b"!", 3), "no private key", "damaged"),
        (cert + montgomery, "TLS 1.3", "P-256"),
        (cert + odd_curve, "TLS 1.3", "P-256"),
        (der, "no certificate", "DER"),
        (p12(issued, None), "no certificate", "load_pkcs12"),
    ):
        (tmp_path / "one.pem").write_bytes(data)
        with pytest.raises(CertificateLoadError, match=cause) as caught:
            Certificate.load(tmp_path / "one.pem")
        error = caught.value
        assert "one.pem" in error.message
        assert remedy in (error.hint or "")
        assert error.__cause__ is None
        for line in (key + montgomery + odd_curve).splitlines():
            if b"-----" not in line:
                assert line.decode() not in str(error)
