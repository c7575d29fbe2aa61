"""What is too costly in a peer's certificates is found before OpenSSL reads them."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from fastnode import limits
from fastnode.openssl.burden import burden
from fastnode.openssl.verdict import BURDENS, too_costly
from helpers import heavy, odd_certificates
from helpers.impostor import certificate_message
from helpers.odd_certificates import tlv
from helpers.pki import authority, certificate

TLS12, TLS13 = 0x0303, 0x0304
UNREADABLE, TOO_MANY, EXPLICIT, MODULUS, EXPONENT, NAMES, PRODUCT = range(1001, 1008)


def found(*chain: bytes) -> tuple[int, int, int] | None:
    """What is too costly in a chain; the same in both versions of TLS."""
    old = burden(certificate_message(chain, tls13=False), TLS12)
    new = burden(certificate_message(chain), TLS13)
    assert old == new
    return new


def spki(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey,
) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_real_certificates_are_not_too_costly() -> None:
    mine = certificate("n@localhost").x509.public_bytes(Encoding.DER)
    root = authority().x509.public_bytes(Encoding.DER)
    assert found() is None
    assert found(mine) is None
    assert found(mine, root) is None
    below = authority().intermediate("middle").issue(dns=["a"]).certificate()
    assert found(*[c.public_bytes(Encoding.DER) for c in below.chain]) is None


def test_what_the_system_trusts_is_not_too_costly() -> None:
    context = ssl.create_default_context()
    trusted = context.get_ca_certs(binary_form=True)
    for der in trusted:
        assert found(der) is None


@pytest.mark.parametrize("kind", odd_certificates.KINDS)
def test_odd_certificates_are_left_to_openssl(kind: str) -> None:
    assert found(odd_certificates.make(kind)[2]) is None


KEYS: dict[str, Callable[[], bytes]] = {
    "P-256": lambda: spki(ec.generate_private_key(ec.SECP256R1()).public_key()),
    "P-384": lambda: spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "P-521": lambda: spki(ec.generate_private_key(ec.SECP521R1()).public_key()),
    "Ed25519": lambda: spki(ed25519.Ed25519PrivateKey.generate().public_key()),
    "RSA 2048": lambda: spki(rsa.generate_private_key(65537, 2048).public_key()),
    "RSA 4096": lambda: heavy.rsa(4096),
    "RSA 8192": lambda: heavy.rsa(limits.MAX_RSA_MODULUS_BITS),
    "exponent 3": lambda: heavy.rsa(2048, 3),
    "exponent of 32 bits": lambda: heavy.rsa(2048, (1 << 32) - 1),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_that_authorities_certify(kind: str) -> None:
    assert found(heavy.certificate(KEYS[kind]())) is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (lambda: heavy.rsa(limits.MAX_RSA_MODULUS_BITS + 1), (MODULUS, 1, 8193)),
        (lambda: heavy.rsa(16384), (MODULUS, 1, 16384)),
        (lambda: heavy.rsa(2048, 1 << 32), (EXPONENT, 1, 33)),
        (lambda: heavy.rsa(3072, (1 << 3064) - 1), (EXPONENT, 1, 3064)),
        (heavy.explicit_curve, (EXPLICIT, 1, 0)),
    ],
    ids=["8193 bits", "16384 bits", "33 bits", "long exponent", "explicit curve"],
)
def test_guarantee_9_keys_that_cost_too_much(
    key: Callable[[], bytes], expected: tuple[int, int, int]
) -> None:
    kind, depth, amount = expected
    shown = heavy.certificate(key())
    assert found(heavy.certificate(), shown) == expected
    assert found(shown) == (kind, 0, amount)
    assert depth == 1


def test_guarantee_9_long_chains() -> None:
    most = limits.MAX_CHAIN_CERTIFICATES
    assert found(*[heavy.certificate()] * most) is None
    assert found(*[heavy.certificate()] * (most + 1)) == (TOO_MANY, 0, most + 1)
    assert found(*[heavy.certificate()] * 60) == (TOO_MANY, 0, most + 1)


def test_guarantee_9_many_names() -> None:
    most = limits.MAX_CERTIFICATE_NAMES
    for make in (heavy.sans, heavy.constraints):
        assert found(heavy.certificate(extensions=[make(most)])) is None
        shown = heavy.certificate(extensions=[make(most + 1)])
        assert found(shown) == (NAMES, 0, most + 1)


def test_guarantee_9_names_times_constraints() -> None:
    most = limits.MAX_NAME_COMPARISONS
    leaf = heavy.certificate(extensions=[heavy.sans(most // 64)])
    issuer = heavy.certificate(extensions=[heavy.constraints(32)])
    assert found(leaf, issuer, issuer) is None
    other = heavy.certificate(extensions=[heavy.constraints(1)])
    product = most // 64 * 65
    assert found(leaf, issuer, issuer, other) == (PRODUCT, 0, product)


def test_guarantee_9_what_the_walk_cannot_read_is_refused() -> None:
    assert found(heavy.ber()) == (UNREADABLE, 0, 0)
    assert found(heavy.certificate(), heavy.ber()) == (UNREADABLE, 1, 0)
    assert found(b"") == (UNREADABLE, 0, 0)
    # A key in a string of bits that is made of pieces, as BER allows.
    key = heavy.explicit_curve()
    bits = key.index(b"\x03", len(key) - 75)
    for tag in (0x23, 0x24, 0x1F):
        pieces = key[:bits] + bytes([tag]) + key[bits + 1 :]
        assert found(heavy.certificate(pieces)) == (UNREADABLE, 0, 0)
    for broken in (b"", b"\x30\x03\x82\x05a", b"\x30\x80\x82\x01a\0\0"):
        for oid in (b"\x55\x1d\x11", b"\x55\x1d\x1e"):
            extension = tlv(0x30, tlv(0x06, oid) + tlv(0x04, broken))
            shown = heavy.certificate(extensions=[extension])
            assert found(shown) == (UNREADABLE, 0, 0)


def test_guarantee_9_every_cut_is_refused() -> None:
    shown = heavy.certificate(extensions=[heavy.sans(3), heavy.constraints(3)])
    for size in range(len(shown)):
        assert found(shown[:size]) == (UNREADABLE, 0, 0)
    whole = certificate_message([shown])
    for size in range(5, len(whole)):
        assert burden(whole[:size], TLS13) == (UNREADABLE, 0, 0)


@given(st.binary(max_size=200), st.sampled_from([TLS12, TLS13]))
def test_any_bytes(body: bytes, version: int) -> None:
    outcome = burden(b"\x0b" + len(body).to_bytes(3) + body, version)
    assert outcome is None or outcome[0] in BURDENS


@given(st.data())
def test_a_byte_that_is_changed(data: st.DataObject) -> None:
    shown = bytearray(
        heavy.certificate(heavy.rsa(2048), [heavy.sans(3), heavy.constraints(3)])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        shown[data.draw(st.integers(0, len(shown) - 1))] = data.draw(
            st.integers(0, 255)
        )
    outcome = found(bytes(shown))
    assert outcome is None or outcome[0] in BURDENS


def test_every_kind_has_words() -> None:
    for kind in range(UNREADABLE, PRODUCT + 1):
        verdict = too_costly(kind, 0, 12345)
        assert verdict.code == kind
        assert "{" not in verdict.text
        assert BURDENS[kind].hint
    assert len(BURDENS) == PRODUCT - UNREADABLE + 1


def test_a_long_subject_is_no_burden() -> None:
    assert found(heavy.certificate(subject=heavy.name(b"A" * 5000))) is None
