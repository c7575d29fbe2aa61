"""CRLs in the pools of real nodes, seen from both sides."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode import (
    CertAuthManager,
    Certificate,
    CertificateExpired,
    CertificateLoadError,
    CertificateRevoked,
    CertPool,
    ClientAuth,
    HandshakeError,
    Refusal,
    RevocationListExpired,
    Side,
    UnknownAuthority,
)
from fastnode.certs.authority import Authority, IssuedCertificate
from fastnode.names import NodeName
from fastnode.openssl.verification import why_unavailable
from helpers.constraints import constrained
from helpers.nodes import A, B, pair, until
from helpers.pki import authority, certificate, odd_certificate

NOW = datetime.now(UTC)
#: Without the hook OpenSSL's own words and alerts are all there is.
hooked = why_unavailable() is None


def pool_with(*crls: bytes, cas: tuple[str, ...] = ("test CA",)) -> CertPool:
    made = CertPool.from_pem(b"".join(authority(name).cert_pem for name in cas))
    for crl in crls:
        made.add_crl(crl)
    return made


def manager(
    name: str, pool: CertPool, shows: Certificate | None = None
) -> CertAuthManager:
    return CertAuthManager(
        shows or certificate(name),
        client_cas=pool,
        client_auth=ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT,
        root_cas=pool,
    )


async def refused(
    dialing: CertAuthManager, accepting: CertAuthManager
) -> tuple[HandshakeError, Refusal]:
    """What the dialer raises, and what the acceptor is told."""
    refusals: list[Refusal] = []
    async with pair(
        {"manager": dialing, "listens": False},
        {"manager": accepting, "on_refused": refusals.append},
    ) as (a, b):
        with pytest.raises(HandshakeError) as caught:
            await a.connect(B)
        await until(lambda: refusals)
        stats = b.acceptors[0].stats
        assert stats.refused.total() + stats.failed.total() == 1
    return caught.value, refusals[0]


async def test_a_revoked_client() -> None:
    shown = odd_certificate(A)
    crl = authority().crl([shown.serial_number])
    error, refusal = await refused(
        manager(A, pool_with(), shown), manager(B, pool_with(crl))
    )
    assert type(error) is CertificateRevoked
    assert error.side is Side.REMOTE
    assert f"{shown.serial_number:x}" in (error.hint or "")
    assert refusal.reason == "CertificateRevoked"
    assert refusal.side is Side.LOCAL
    if hooked:
        assert refusal.certificate == shown.x509
        assert f"{shown.serial_number:x}" in (refusal.hint or "")


async def test_a_revoked_server() -> None:
    shown = odd_certificate(B)
    crl = authority().crl([shown.serial_number])
    error, refusal = await refused(
        manager(A, pool_with(crl)), manager(B, pool_with(), shown)
    )
    assert type(error) is CertificateRevoked
    assert error.side is Side.LOCAL
    assert refusal.reason == "CertificateRevoked"
    assert refusal.side is Side.REMOTE


async def test_a_revoked_intermediate() -> None:
    below = authority().intermediate("doomed CA")
    shown = below.issue(NodeName.parse(A)).certificate()
    crl = authority().crl([below.x509.serial_number])
    error, refusal = await refused(
        manager(A, pool_with(), shown), manager(B, pool_with(crl))
    )
    assert type(error) is CertificateRevoked
    assert refusal.reason == "CertificateRevoked"
    if hooked:
        assert "doomed CA" in str(refusal.error)


async def test_who_is_not_in_the_list_gets_in() -> None:
    crl = authority().crl([4711])
    async with pair(
        {"manager": manager(A, pool_with(crl)), "listens": False},
        {"manager": manager(B, pool_with(crl))},
    ) as (a, b):
        assert (await a.connect(B)).peer.verified
        await until(lambda: b.links)
        assert b.links[0].peer.verified


@pytest.mark.skipif(not hooked, reason="needs the hook")
async def test_an_authority_without_a_list_is_not_held_up_by_that_of_another() -> None:
    shown = certificate(A, "second CA")
    both = pool_with(authority().crl([1]), cas=("test CA", "second CA"))
    async with pair(
        {"manager": manager(A, pool_with(), shown), "listens": False},
        {"manager": manager(B, both)},
    ) as (a, b):
        await a.connect(B)
        await until(lambda: b.links)
        assert b.links[0].peer.verified


async def test_a_list_that_is_out_of_date_refuses_with_its_own_error() -> None:
    old = authority().crl(
        [], last_update=NOW - timedelta(days=9), next_update=NOW - timedelta(days=2)
    )
    error, refusal = await refused(manager(A, pool_with()), manager(B, pool_with(old)))
    assert type(refusal.error) is RevocationListExpired
    assert refusal.side is Side.LOCAL
    # It is not the dialer's fault, and it is not told that it were.
    if hooked:
        assert type(error) is HandshakeError
        assert "2 days ago" in (refusal.hint or "")
        assert "CN=test CA" in (refusal.hint or "")
    error, refusal = await refused(manager(A, pool_with(old)), manager(B, pool_with()))
    assert type(error) is RevocationListExpired
    assert error.side is Side.LOCAL
    assert refusal.side is Side.REMOTE


def made_by_hand(
    revoked: int, *extensions: x509.ExtensionType, ca: str = "test CA"
) -> bytes:
    """A list of an authority, with extensions that `Authority.crl` does not make."""
    issuer = authority(ca)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.x509.subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(days=1))
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(revoked)
            .revocation_date(NOW - timedelta(hours=1))
            .build()
        )
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer._key, hashes.SHA256()).public_bytes(Encoding.PEM)


OTHER_KEY = x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None)
OTHER_SERIAL = x509.AuthorityKeyIdentifier(
    None, [x509.DirectoryName(x509.Name([]))], 4711
)


def part(*, indirect: bool, reasons: bool) -> x509.IssuingDistributionPoint:
    some = frozenset([x509.ReasonFlags.key_compromise]) if reasons else None
    return x509.IssuingDistributionPoint(
        None, None, False, False, some, indirect, False
    )


@pytest.mark.parametrize(
    "extension",
    [
        OTHER_KEY,
        OTHER_SERIAL,
        part(indirect=True, reasons=False),
        part(indirect=False, reasons=True),
    ],
    ids=["key of another", "serial of another", "indirect", "some reasons"],
)
def test_a_list_that_openssl_would_not_look_at_is_not_loaded(
    extension: x509.ExtensionType,
) -> None:
    held = pool_with()
    with pytest.raises(CertificateLoadError, match="would not look at") as caught:
        held.add_crl(made_by_hand(1, extension))
    assert caught.value.hint
    assert not held.crls


async def test_a_list_that_openssl_ignores_is_not_taken_for_none() -> None:
    # Of an intermediate, whose certificate is not at hand when the list is loaded.
    below = authority().intermediate("careless CA")
    shown = below.issue(NodeName.parse(A)).certificate()
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(below.x509.subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(days=1))
        .add_extension(OTHER_KEY, critical=False)
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(shown.serial_number)
            .revocation_date(NOW - timedelta(hours=1))
            .build()
        )
        .sign(below._key, hashes.SHA256())
    )
    held = pool_with(crl.public_bytes(Encoding.PEM))
    _error, refusal = await refused(manager(A, pool_with(), shown), manager(B, held))
    assert type(refusal.error) is HandshakeError
    if hooked:
        assert "the CRL of CN=careless CA cannot be used" in str(refusal.error)


# --- strangers are refused before any list is read ------------------------------


def forged(issued: IssuedCertificate) -> Certificate:
    """The same certificate with another signature, as a stranger would make it."""
    leaf = x509.load_pem_x509_certificate(issued.cert_pem)
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-1] ^= 1
    pem = x509.load_der_x509_certificate(bytes(der)).public_bytes(Encoding.PEM)
    return Certificate.from_pem(pem, issued.key_pem)


def badly_signed(ca: Authority) -> bytes:
    """A list in the name of an authority that another key has signed."""
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.x509.subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(days=1))
        .sign(authority("other CA")._key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


#: The lists of an authority, and what OpenSSL says when it reads them.
UNUSABLE: dict[str, tuple[Callable[[Authority], bytes], str]] = {
    "badly signed": (badly_signed, "CRL signature failure"),
    "out of date": (
        lambda ca: ca.crl(
            [], last_update=NOW - timedelta(days=9), next_update=NOW - timedelta(days=2)
        ),
        "CRL has expired",
    ),
}


@pytest.mark.skipif(not hooked, reason="needs the hook")
@pytest.mark.parametrize("role", ["acceptor", "dialer"])
@pytest.mark.parametrize("kind", UNUSABLE)
async def test_guarantee_9_lists_are_not_read_for_strangers(
    kind: str, role: str
) -> None:
    """OpenSSL says what is wrong with a list as soon as it has verified the list."""
    make, words = UNUSABLE[kind]
    # The signature of a list is not verified when it is loaded before its authority.
    below = authority().intermediate("middle CA")
    held = pool_with(make(below))
    held.add(below.cert_pem)
    name = A if role == "acceptor" else B
    issued = below.issue(NodeName.parse(name))
    for shown, expected in (
        (forged(issued), "certificate signature failure"),
        (issued.certificate(), words),
    ):
        if role == "acceptor":
            dialing, accepting = manager(A, pool_with(), shown), manager(B, held)
        else:
            dialing, accepting = manager(A, held), manager(B, pool_with(), shown)
        error, refusal = await refused(dialing, accepting)
        judged = refusal.error if role == "acceptor" else error
        assert expected in judged.message
        assert judged.side is Side.LOCAL
        told = error if role == "acceptor" else refusal.error
        assert told.side is Side.REMOTE
        assert "revoked" not in f"{error} {refusal}"


@pytest.mark.skipif(not hooked, reason="needs the hook")
async def test_a_stranger_does_not_learn_what_is_revoked() -> None:
    issued = authority().issue(NodeName.parse(A))
    shown = forged(issued)
    held = pool_with(authority().crl([shown.serial_number]))
    error, refusal = await refused(manager(A, pool_with(), shown), manager(B, held))
    assert type(error) is type(refusal.error) is HandshakeError
    assert "certificate signature failure" in refusal.error.message


async def test_of_several_reasons_the_revocation_is_told() -> None:
    now = datetime.now(UTC)
    old = odd_certificate(
        A, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
    )
    early = odd_certificate(
        A, not_before=now + timedelta(days=1), not_after=now + timedelta(days=9)
    )
    for shown in (old, early):
        for revoked, kind in (
            ([shown.serial_number], CertificateRevoked),
            ([4711], CertificateExpired),
        ):
            held = pool_with(authority().crl(revoked))
            error, refusal = await refused(
                manager(A, pool_with(), shown), manager(B, held)
            )
            assert type(error) is type(refusal.error) is kind


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_certificate_that_violates_constraints_may_be_revoked(
    revoked: bool,
) -> None:
    below = constrained("permitted;DNS:elsewhere.test", parent=authority())
    shown = below.issue(NodeName.parse("alpha@here.test")).certificate()
    held = pool_with(below.crl([shown.serial_number] if revoked else [4711]))
    error, refusal = await refused(manager(A, pool_with(), shown), manager(B, held))
    expected = CertificateRevoked if revoked else UnknownAuthority
    assert type(error) is type(refusal.error) is expected
