"""Signing of certificates and revocation lists: names, extensions, signatures."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fastnode.errors import ConfigError
from fastnode.names import verified_host

__all__ = [
    "BACKDATE",
    "ca_builder",
    "check_certifiable",
    "check_common_name",
    "common_name_only",
    "dns_name",
    "ip_address",
    "key_pem",
    "leaf_builder",
    "lifetime_of",
    "self_signed",
    "sign",
    "sign_crl",
]

#: Certificates begin this long before they are made, because the clocks of two machines
#: may differ a little.
BACKDATE: Final = timedelta(minutes=5)
#: Characters of a name in a certificate (RFC 5280, appendix A.1).
MAX_NAME: Final = 64
#: The longest lifetime of a certificate: dates end with the year 9999.
MAX_DAYS: Final = 365_000
#: Keys that a certificate may be for.
PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | rsa.RSAPrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | rsa.RSAPublicKey
)


def lifetime_of(days: object) -> timedelta:
    """Return so many days as a time.

    Raises:
        ConfigError: it is no number of days, or not above 0.
    """
    if (
        isinstance(days, bool)
        or not isinstance(days, (int, float))
        or not 0 < days <= MAX_DAYS
    ):
        raise ConfigError(f"days is {days!r}", hint=f"above 0, up to {MAX_DAYS}")
    return timedelta(days=days)


def check_common_name(text: object) -> str:
    """Return the Common Name of an authority, checked.

    Raises:
        ConfigError: it is no text, or empty, or longer than 64 characters, or it has
            characters that cannot be shown.
    """
    if not isinstance(text, str) or not text.strip():
        what = "is empty" if isinstance(text, str) else "is not a str"
    elif len(text) > MAX_NAME:
        what = f"has {len(text)} characters"
    elif not text.isprintable():
        what = "has characters that cannot be shown"
    else:
        return text
    raise ConfigError(
        f"the common name of an authority {what}",
        hint=f"use a name of 1 to {MAX_NAME} characters",
    )


def dns_name(text: str) -> str:
    """Return a DNS name as certificates hold it: in ASCII and in lower case.

    Args:
        text: a DNS name; its first label may be ``*``.

    Raises:
        ConfigError: it is an IP address, or not a DNS name.
    """
    star = "*." if text.startswith("*.") else ""
    try:
        normal = verified_host(text.removeprefix(star))
    except ConfigError as error:
        raise ConfigError(
            error.message.replace(" is no host", " is not a DNS name", 1),
            hint="use letters, digits, '-' and '_'; dots separate the labels",
        ) from None
    # No top-level domain is a number (RFC 3696, 2), so 10.0.0.300 is a wrong address.
    if ":" in normal or normal.rpartition(".")[2].isdigit():
        raise ConfigError(
            f"{text!r} is not a DNS name",
            hint="give an address as an IP address, not as a DNS name",
        )
    return star + normal


def ip_address(text: str) -> str:
    """Return an IP address as certificates hold it.

    Raises:
        ConfigError: it is not an IP address, or it has an IPv6 zone.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not an IP address",
            hint="write it as in 10.0.0.5 or fd00::5",
        ) from None
    if "%" in text:
        raise ConfigError(
            f"{text!r} has a zone, which certificates cannot hold",
            hint=f"write {text.partition('%')[0]}",
        )
    return str(address)


def check_certifiable(host: str) -> None:
    """Raise `ConfigError` unless a host is a URI, an IP address or a DNS name."""
    if "://" in host:
        return
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        dns_name(host)


def common_name_only(common_name: str) -> x509.Name:
    """A name of this Common Name alone.

    Raises:
        ConfigError: it is no text, or empty.
    """
    if not isinstance(common_name, str) or not common_name:
        raise ConfigError(
            f"the common name of an authority is {common_name!r}",
            hint="a name has 1 to 64 characters",
        )
    # RFC 5280, appendix A.1: a common name has at most 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
    length: int | None = None,
) -> x509.CertificateBuilder:
    """A certificate of an authority, unsigned; `length`: authorities below it."""
    builder = _builder(subject, issuer, issuer_key, not_before, not_after)
    constraints = x509.BasicConstraints(ca=True, path_length=length)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    return builder.add_extension(constraints, critical=True).add_extension(
        usage, critical=True
    )


def leaf_builder(
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
    sans: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
) -> x509.CertificateBuilder:
    """A certificate of a node, unsigned.

    Raises:
        ConfigError: a SAN is neither a URI, an address nor a DNS name.
    """
    builder = _builder(subject, issuer, issuer_key, not_before, not_after)
    try:
        names = [_general_name(san) for san in dict.fromkeys(sans)]
    except ValueError as error:
        raise ConfigError(f"a subject alternative name is wrong: {error}") from None
    builder = (
        builder.add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    # The authority key identifier is demanded by strict verification (RFC 5280,
    # 4.2.1.1).
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        issuer_key.public_key()
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(identifier, critical=False)
    )


def self_signed(
    organization: str, hosts: Sequence[str], lifetime: timedelta
) -> tuple[bytes, bytes]:
    """Make a self-signed certificate for servers and clients; return it and its key,
    PEM.

    Raises:
        ConfigError: the organization, or one of the hosts, cannot be in a certificate.
    """
    if not isinstance(organization, str) or not 1 <= len(organization) <= MAX_NAME:
        raise ConfigError(
            f"the organization is {organization!r}",
            hint=f"an organization has 1 to {MAX_NAME} characters",
        )
    given = isinstance(hosts, Iterable) and not isinstance(hosts, (str, bytes))
    hosts = tuple(hosts) if given else ("",)
    if not all(isinstance(host, str) and host for host in hosts):
        raise ConfigError(
            "hosts is not a sequence of hosts",
            hint='write hosts=["localhost"]',
        )
    if not hosts:
        raise ConfigError("a certificate without hosts covers nothing")
    for host in hosts:
        check_certifiable(host)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:MAX_NAME]),
        ]
    )
    now = datetime.now(UTC)
    builder = leaf_builder(
        name,
        name,
        key,
        now - BACKDATE,
        now + lifetime,
        hosts,
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    )
    certificate = sign(builder, key, key.public_key())
    return certificate.public_bytes(Encoding.PEM), key_pem(key)


def sign(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    public_key: PublicKey,
) -> x509.Certificate:
    """The certificate for `public_key`, signed by the issuer's key."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        builder.public_key(public_key)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def sign_crl(
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serials: Iterable[int],
    last_update: datetime,
    next_update: datetime,
) -> bytes:
    """A certificate revocation list, PEM, with the extensions that RFC 5280, 5.2
    demands."""
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    # A list that is made later has a greater number (5.2.3).
    number = x509.CRLNumber(time.time_ns())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(last_update)
        .next_update(next_update)
        .add_extension(identifier, critical=False)
        .add_extension(number, critical=False)
    )
    for serial in serials:
        revoked = (
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(last_update)
            .build()
        )
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    """Return a host as the kind of SAN that it is: URI, address or DNS name.

    Hosts are written in the form in which peers look for them.
    """
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    star = "*." if host.startswith("*.") else ""
    try:
        normal = verified_host(host.removeprefix(star))
    except ConfigError:
        return x509.DNSName(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(normal))
    except ValueError:
        return x509.DNSName(star + normal)


def _key_usage(
    *,
    digital_signature: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def key_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
