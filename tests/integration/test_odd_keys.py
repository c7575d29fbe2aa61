"""Keys and files of unusual kinds are taken if they are of use, or named right."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)

from fastnode import (
    CertAuthManager,
    Certificate,
    CertificateLoadError,
    CertPool,
    ClientAuth,
    PeerNameMismatch,
    limits,
)
from fastnode.certs import private_key, usable
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers.nodes import A, B, pair, until
from helpers.pki import authority, certificate, manager

hooked = pytest.mark.skipif(why_unavailable() is not None, reason="needs the hook")
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl"
)
FAQ = "https://"


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(
        ["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30
    )


# --- keys ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed certificates with keys for RSA-PSS only."""
    folder = tmp_path_factory.mktemp("pss")
    (folder / "san.cnf").write_text(
        "[req]\ndistinguished_name = name\n[name]\n"
        f"[v3]\nsubjectAltName = IP:127.0.0.1, URI:fastnode://{A}, "
        f"URI:fastnode://{B}\n"
    )
    limited = "rsa_pss_keygen_md:sha256 rsa_pss_keygen_mgf1_md:sha256"
    for name, options in (
        ("plain", ""),
        ("limited", f"{limited} rsa_pss_keygen_saltlen:32"),
    ):
        given = [word for each in options.split() for word in ("-pkeyopt", each)]
        openssl(
            folder,
            *("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"),
            *given,
            *("-out", f"{name}-key.pem"),
        )
        openssl(
            folder,
            *("req", "-x509", "-new", "-key", f"{name}-key.pem", "-days", "9"),
            *("-subj", f"/CN={name}", "-config", "san.cnf", "-extensions", "v3"),
            *("-out", f"{name}.pem"),
        )
    return folder


@needs_openssl
@pytest.mark.parametrize("kind", ["plain", "limited"])
async def test_a_key_for_rsa_pss_only_serves_both_sides(pss: Path, kind: str) -> None:
    shown = Certificate.load(pss / f"{kind}.pem", pss / f"{kind}-key.pem")
    pool = CertPool.load(pss / f"{kind}.pem")

    def trusting() -> CertAuthManager:
        return CertAuthManager(
            shown,
            client_cas=pool,
            client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
            root_cas=pool,
        )

    async with pair(
        {"manager": trusting(), "listens": False}, {"manager": trusting()}
    ) as (a, b):
        link = await a.connect(B)
        assert link.peer.verified
        await until(lambda: b.links)
        assert b.links[0].peer.verified


@needs_openssl
def test_a_key_for_rsa_pss_only_that_is_encrypted(pss: Path) -> None:
    openssl(
        pss,
        *("pkcs8", "-topk8", "-in", "limited-key.pem", "-v2", "aes256"),
        *("-passout", "pass:geheim", "-out", "locked.pem"),
    )
    openssl(
        pss,
        *("pkcs12", "-export", "-inkey", "limited-key.pem", "-in", "limited.pem"),
        *("-passout", "pass:geheim", "-out", "both.p12"),
    )
    for loaded in (
        Certificate.load(pss / "limited.pem", pss / "locked.pem", "geheim"),
        Certificate.load_pkcs12(pss / "both.p12", "geheim"),
    ):
        loaded.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def for_key(key: Any) -> bytes:
    """A certificate for a key of any kind, PEM."""
    ca = authority()
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(ca.x509.subject)
        .issuer_name(ca.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=9))
        .sign(ca._key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def key_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def ml_dsa() -> Any:
    mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    try:
        return mldsa.MLDSA65PrivateKey.generate()
    except Exception as error:  # the library was built without it
        pytest.skip(f"cryptography makes no ML-DSA keys: {error}")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (ml_dsa, "ML-DSA-65"),
        (lambda: ec.generate_private_key(ec.BrainpoolP256R1()), "EC brainpoolP256r1"),
    ],
)
def test_what_the_openssl_at_hand_can_use_is_taken(make: Any, kind: str) -> None:
    key = make()
    # A handshake without fastnode says what is right.
    works = usable._why_unusable(for_key(key), key_pem(key)) is None
    if works:
        assert Certificate.from_pem(for_key(key), key_pem(key))
        return
    with pytest.raises(CertificateLoadError) as caught:
        Certificate.from_pem(for_key(key), key_pem(key))
    assert f"of the kind {kind}" in str(caught.value)
    assert ssl.OPENSSL_VERSION in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_a_trial_decides_and_not_a_list() -> None:
    """Stands for an OpenSSL that knows more or less than this one."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert usable._why_unusable(for_key(key), key_pem(key)) is None
    with mock.patch.object(usable, "is_common", return_value=False):
        assert Certificate.from_pem(for_key(key), key_pem(key))


def test_ml_dsa_where_the_library_cannot_read_it() -> None:
    pem = key_pem(ml_dsa())

    def unknown(*_: object) -> None:
        raise UnsupportedAlgorithm("no such key")

    with (
        mock.patch.object(private_key, "load_pem_private_key", unknown),
        pytest.raises(CertificateLoadError, match="ML-DSA-65") as caught,
    ):
        Certificate.from_pem(authority().cert_pem, pem)
    assert "upgrade cryptography" in (caught.value.hint or "")


@needs_openssl
@pytest.mark.parametrize(
    "words",
    [
        ("pkcs8", "-topk8", "-v2", "camellia-256-cbc"),
        ("pkcs8", "-topk8", "-v2", "aria-256-cbc"),
        ("ec", "-camellia256"),
    ],
)
def test_a_cipher_that_cannot_be_read(tmp_path: Path, words: tuple[str, ...]) -> None:
    issued = authority().issue(NodeName.parse(A))
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    ends = ("-in", "key.pem", "-passout", "pass:x", "-out")
    openssl(tmp_path, *words, *ends, "locked.pem")
    with pytest.raises(CertificateLoadError, match="a cipher that cannot be") as caught:
        Certificate.from_pem(
            issued.cert_pem, (tmp_path / "locked.pem").read_bytes(), "x"
        )
    assert "aes-256-cbc" in (caught.value.hint or "")
    # A wrong password for one that can be read is still called that, also if what comes
    # out looks like a key of an unknown kind, by chance.
    openssl(tmp_path, "pkcs8", "-topk8", *ends, "aes.pem")
    with pytest.raises(CertificateLoadError) as caught:
        Certificate.from_pem(issued.cert_pem, (tmp_path / "aes.pem").read_bytes(), "y")
    assert "the password is wrong" in (caught.value.hint or "")


@pytest.mark.parametrize("password", [None, b"geheim"])
def test_a_key_of_openssh(password: bytes | None) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    with pytest.raises(CertificateLoadError, match="OpenSSH") as caught:
        Certificate.from_pem(authority().cert_pem, pem, password)
    assert "ssh-keygen" in (caught.value.hint or "")


# --- files --------------------------------------------------------------------------


def files() -> dict[str, tuple[bytes, str, str]]:
    """What may be in a file in place of certificates, and words of error and hint."""
    ca = authority().x509
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(ca.subject)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    pem = authority().cert_pem
    trusted = pem.replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-")
    bag = [ca]
    locked = pkcs12.serialize_key_and_certificates(
        b"x", None, None, bag, NoEncryption()
    )
    return {
        "empty": (b" \n", "it is empty", "BEGIN CERTIFICATE"),
        "DER": (ca.public_bytes(Encoding.DER), "certificate in DER", "openssl x509"),
        "PKCS#7": (
            pkcs7.serialize_certificates(bag, Encoding.PEM),
            "PKCS#7",
            "openssl pkcs7 -print_certs",
        ),
        "PKCS#7 in DER": (
            pkcs7.serialize_certificates(bag, Encoding.DER),
            "PKCS#7 in DER",
            "openssl pkcs7 -print_certs -inform DER",
        ),
        "PKCS#12": (locked, "PKCS#12", "load_pkcs12"),
        "a request": (
            request.public_bytes(Encoding.PEM),
            "signing request",
            "send it to the authority",
        ),
        "a request in DER": (
            request.public_bytes(Encoding.DER),
            "signing request in DER",
            "openssl req",
        ),
        "a trusted one beside": (
            pem + trusted,
            "BEGIN TRUSTED CERTIFICATE",
            "openssl x509",
        ),
        "a trusted one": (trusted, "BEGIN TRUSTED CERTIFICATE", "openssl x509"),
    }


@pytest.mark.parametrize("what", files())
def test_a_file_of_another_kind_is_named_right(what: str) -> None:
    data, words, remedy = files()[what]
    for load in (
        CertPool.from_pem,
        lambda data: Certificate.from_pem(data, key_pem(authority()._key)),
    ):
        with pytest.raises(CertificateLoadError) as caught:
            load(data)
        assert words in caught.value.message
        assert remedy in (caught.value.hint or "")
        assert FAQ not in str(caught.value)


def test_a_revocation_list_among_authorities_is_not_left_out() -> None:
    both = authority().cert_pem + authority().crl([1])
    with pytest.raises(CertificateLoadError, match="revocation list") as caught:
        CertPool.from_pem(both)
    assert "load_crl" in (caught.value.hint or "")


def test_damaged_pem_does_not_lead_to_another_project() -> None:
    broken = authority().cert_pem.replace(b"A", b"!", 5)
    with pytest.raises(CertificateLoadError) as caught:
        CertPool.from_pem(broken)
    assert FAQ not in str(caught.value)


# --- what peers show ------------------------------------------------------------------


def with_extension(name: str, der: bytes) -> Certificate:
    """A good certificate whose SANs are these bytes."""
    issued = authority().issue(NodeName.parse(name))
    found = x509.load_pem_x509_certificate(issued.cert_pem)
    key = rsa.generate_private_key(65537, 2048)
    builder = (
        x509.CertificateBuilder()
        .subject_name(found.subject)
        .issuer_name(found.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(found.not_valid_before_utc)
        .not_valid_after(found.not_valid_after_utc)
    )
    for each in found.extensions:
        value: x509.ExtensionType = each.value
        if isinstance(value, x509.SubjectAlternativeName):
            value = x509.UnrecognizedExtension(value.oid, der)
        builder = builder.add_extension(value, critical=each.critical)
    made = builder.sign(authority()._key, hashes.SHA256())
    return Certificate.from_pem(made.public_bytes(Encoding.PEM), key_pem(key))


async def test_names_that_cannot_be_read_are_not_called_none() -> None:
    # A DNS name that is no ASCII: OpenSSL takes it, and the library does not.
    shown = with_extension(A, b"\x30\x06\x82\x04a\xfc.b")
    async with pair({"manager": manager(A, shows=shown), "listens": False}) as (a, _):
        with pytest.raises(PeerNameMismatch) as caught:
            await a.connect(B)
    assert "SANs names that cannot be read" in str(caught.value)
    assert "an extension of the certificate is malformed" in str(caught.value)
    assert "SANs none" not in str(caught.value)


async def test_too_many_names_are_named_so(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"host-{number}.some.example" for number in range(700)]
    shown = authority().issue(NodeName.parse(A), dns=names).certificate()
    assert shown.size > limits.MAX_CLIENT_CHAIN_BYTES
    async with pair({"manager": manager(A, shows=shown), "listens": False}) as (a, _):
        assert f"have {shown.size} bytes" in caplog.text
        assert "use fewer names" in caplog.text
        with pytest.raises(ConnectionError) as caught:
            await a.connect(B)
    assert f"have {shown.size} bytes, and its peers read 16384" in str(caught.value)


def test_the_size_of_a_chain_is_that_of_its_message() -> None:
    shown = certificate(A)
    assert shown.size == len(shown.x509.public_bytes(Encoding.DER)) + 5
