"""What a certificate says about who shows it."""

from __future__ import annotations

import ipaddress

from cryptography import x509

from fastnode.certs.certificate import UNREADABLE_SANS, sans_of
from fastnode.names import NodeName

__all__ = ["covers", "describe", "names_of", "parse", "printable"]


def parse(der: bytes) -> x509.Certificate:
    """A certificate as TLS presents it."""
    return x509.load_der_x509_certificate(der)


def covers(certificate: x509.Certificate, name: NodeName) -> bool:
    """Whether a certificate allows its holder to use a node name.

    It does if one of its subject alternative names is the URI
    ``fastnode://name@host``, or covers the host by the rules of RFC 9525, 6.3 and
    6.4: DNS names without regard to case, a wildcard only as the whole left-most
    label, addresses only by IP SANs. The Common Name never counts.
    """
    try:
        sans = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except UNREADABLE_SANS:
        return False
    if name.uri in sans.get_values_for_type(x509.UniformResourceIdentifier):
        return True
    try:
        address = ipaddress.ip_address(name.host)
    except ValueError:
        host = name.host.lower().rstrip(".")
        patterns = sans.get_values_for_type(x509.DNSName)
        return any(_dns_matches(pattern.lower(), host) for pattern in patterns)
    return address in sans.get_values_for_type(x509.IPAddress)


def _dns_matches(pattern: str, host: str) -> bool:
    if not pattern.startswith("*."):
        return pattern.rstrip(".") == host
    _, _, parent = host.partition(".")
    suffix = pattern[2:].rstrip(".")
    # "*.example" would cover all of a top-level domain.
    return "." in suffix and suffix == parent


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS, IP and URI subject alternative names, as text; none if unreadable."""
    return sans_of(certificate)


def describe(certificate: x509.Certificate) -> str:
    """Subject, SANs, issuer and dates in one line, for logs and errors."""
    try:
        value = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        sans = ", ".join(str(san.value) for san in value)
    except UNREADABLE_SANS:
        sans = "none"
    text = (
        f"subject {certificate.subject.rfc4514_string() or 'empty'}, SANs {sans}, "
        f"issued by {certificate.issuer.rfc4514_string()}, valid "
        f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
        f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    )
    return printable(text)


def printable(text: str) -> str:
    """Words that strangers chose, for a log: they may not write lines of their own."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
