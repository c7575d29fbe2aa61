"""What strict checking of chains refuses (RFC 5280), and how to make it right.

OpenSSL finds such a defect in the handshake of the first peer. Here the same rules are
applied to the certificate of an authority when it is loaded, so that whoever loads it
hears of the defect before any peer is refused.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fastnode.certs.expiry import day_and_distance, when_ended

__all__ = [
    "Rule",
    "calls_itself_authority",
    "defect_of",
    "issued",
    "rule_of",
    "self_issued",
]

_T = TypeVar("_T", bound=x509.ExtensionType)


class Rule(NamedTuple):
    """A rule for certificates.

    Attributes:
        broken: what is wrong with a certificate that breaks it. It follows a subject.
        remedy: how to make a certificate that does not, as an OpenSSL extension file
            writes it where that is possible.
    """

    broken: str
    remedy: str


_BASIC: Final = "basicConstraints = critical, CA:TRUE"
_USAGE: Final = "keyUsage = critical, keyCertSign, cRLSign"

#: By X509_V_ERR_* (openssl/x509_vfy.h).
_RULES: Final[dict[int, Rule]] = {
    24: Rule("is not the certificate of an authority", _BASIC),
    25: Rule(
        "is below more authorities than the path length of one of them allows",
        "a larger pathlen in basicConstraints of the authority, or none",
    ),
    34: Rule(
        "has a critical extension that OpenSSL does not know",
        "leave that extension out, or make it not critical",
    ),
    66: Rule("has a key that is too small", "P-256, or RSA with 2048 bits or more"),
    67: Rule("has a key that is too small", "P-256, or RSA with 2048 bits or more"),
    68: Rule("is signed with a hash that is too weak", "sign it with SHA-256"),
    76: Rule("is signed in a way that OpenSSL does not know", "sign it with SHA-256"),
    77: Rule("is signed with another kind of key than its issuer has", "issue it anew"),
    78: Rule("names two different signature algorithms", "issue it anew"),
    79: Rule("is not the certificate of an authority", _BASIC),
    80: Rule("has a path length and is no authority", "basicConstraints = CA:FALSE"),
    81: Rule("has a path length, and a key usage without keyCertSign", _USAGE),
    82: Rule(
        "has the key usage keyCertSign and is no authority",
        "keyUsage = critical, digitalSignature",
    ),
    83: Rule("has an empty issuer name", "give the authority a subject"),
    84: Rule("has an empty subject", "give it a subject"),
    85: Rule("has no authority key identifier", "authorityKeyIdentifier = keyid"),
    86: Rule("has no subject key identifier", "subjectKeyIdentifier = hash"),
    87: Rule("has an empty subject alternative name", "put names into subjectAltName"),
    88: Rule(
        "has an empty subject, and subject alternative names that are not critical",
        "give it a subject, or write subjectAltName = critical, ...",
    ),
    89: Rule("has basic constraints that are not marked critical", _BASIC),
    90: Rule(
        "has an authority key identifier that is marked critical",
        "authorityKeyIdentifier = keyid",
    ),
    91: Rule(
        "has a subject key identifier that is marked critical",
        "subjectKeyIdentifier = hash",
    ),
    92: Rule("has no key usage extension", _USAGE),
    93: Rule("has extensions and is not of version 3", "issue it with version 3"),
    94: Rule("has a key on a curve that is written out", "use the named curve P-256"),
}
_NO_SIGNING: Final = Rule("has a key usage without keyCertSign", _USAGE)
_NO_TLS: Final = Rule(
    "has an extended key usage that allows no TLS",
    "leave extendedKeyUsage out, or write serverAuth, clientAuth",
)
_UNREADABLE: Final = Rule(
    "has an extension or a key that cannot be read", "issue it with another program"
)

#: The least RSA bits by OpenSSL's security level (SSL_CTX_set_security_level(3)).
_LEAST_RSA: Final = {0: 0, 1: 1024, 2: 2048, 3: 3072, 4: 7680, 5: 15360}


def rule_of(code: int) -> Rule | None:
    """Return the rule behind an ``X509_V_ERR_*`` code, if there is one here."""
    return _RULES.get(code)


def defect_of(certificate: x509.Certificate) -> Rule | None:
    """Return the first rule that the certificate of an authority breaks, or None.

    A self-signed certificate that does not call itself an authority has none: it can be
    trusted for what it is, and strict rules do not apply to it (RFC 6818, 2).
    """
    try:
        return next(_defects(certificate), None)
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm, TypeError):
        return _UNREADABLE


def _defects(certificate: x509.Certificate) -> Iterator[Rule]:
    basic = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    signs = usage is not None and usage.value.key_cert_sign
    if certificate.version is not x509.Version.v3:
        yield _RULES[79]
    elif basic is None or not basic.value.ca:
        if signs or not self_issued(certificate):
            yield _RULES[79]
    else:
        if not basic.critical:
            yield _RULES[89]
        if not signs:
            yield _RULES[92] if usage is None else _NO_SIGNING
        yield from _of_names(certificate)
        yield from _of_purpose(certificate)
        yield from _of_key_and_dates(certificate)


def _of_names(certificate: x509.Certificate) -> Iterator[Rule]:
    if not list(certificate.subject):
        yield _RULES[84]
    own = _extension(certificate, x509.SubjectKeyIdentifier)
    if own is None:
        yield _RULES[86]
    elif own.critical:
        yield _RULES[91]
    issuer = _extension(certificate, x509.AuthorityKeyIdentifier)
    if issuer is None and not self_issued(certificate):
        yield _RULES[85]
    elif issuer is not None and issuer.critical:
        yield _RULES[90]


def _of_purpose(certificate: x509.Certificate) -> Iterator[Rule]:
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    tls = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not tls & set(extended.value):
        yield _NO_TLS
    for each in certificate.extensions:
        if each.critical and isinstance(each.value, x509.UnrecognizedExtension):
            yield _RULES[34]


def _of_key_and_dates(certificate: x509.Certificate) -> Iterator[Rule]:
    key = certificate.public_key()
    level = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_RSA.get(level, 0):
        yield _RULES[67]
    now = datetime.now(UTC)
    if now >= certificate.not_valid_after_utc:
        yield Rule(when_ended(certificate.not_valid_after_utc, now), "a later end")
    if now < certificate.not_valid_before_utc:
        begin = day_and_distance(certificate.not_valid_before_utc, now)
        yield Rule(f"is valid from {begin}", "an earlier beginning, or check the clock")


def calls_itself_authority(certificate: x509.Certificate) -> bool:
    """Whether the basic constraints of a certificate say that it is an authority."""
    try:
        basic = _extension(certificate, x509.BasicConstraints)
    except (ValueError, x509.DuplicateExtension):
        return True
    return basic is not None and basic.value.ca


def self_issued(certificate: x509.Certificate) -> bool:
    """Whether the issuer of a certificate has the name of its subject."""
    return certificate.issuer == certificate.subject


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the name and the key of an authority fit a certificate, as far as is
    known."""
    try:
        certificate.verify_directly_issued_by(authority)
    except UnsupportedAlgorithm:
        return True
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _extension(
    certificate: x509.Certificate, kind: type[_T]
) -> x509.Extension[_T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
