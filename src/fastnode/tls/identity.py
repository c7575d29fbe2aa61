"""What a certificate says about who shows it.

Every node imports this; cryptography is loaded where there is a certificate to read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from fastnode.certs.sans import read_sans, sans_of
from fastnode.limits import READ_CERTIFICATES
from fastnode.names import NodeName

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "covers",
    "covers_again",
    "describe",
    "issuer_text",
    "listed",
    "parse",
    "printable",
    "read_again",
    "readable",
    "subject_text",
]

#: What is shown of a stranger's certificate in logs and errors.
MOST_NAMES: Final = 8
MOST_CHARACTERS: Final = 120
UNREADABLE: Final = "(unreadable)"


def parse(der: bytes) -> x509.Certificate:
    """A certificate as TLS presents it."""
    from cryptography import x509

    return x509.load_der_x509_certificate(der)


def covers(certificate: x509.Certificate, name: NodeName) -> bool:
    """Whether a certificate allows its holder to use a node name.

    It does if one of its subject alternative names is the URI
    ``fastnode://name@host``, or covers the host by the rules of RFC 9525, 6.3 and
    6.4: DNS names without regard to case, a wildcard only as the whole left-most
    label, addresses only by IP SANs. The Common Name never counts.
    """
    from cryptography import x509

    sans = read_sans(certificate)
    if sans is None:
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


def readable(der: bytes | None) -> x509.Certificate | None:
    """A certificate, or None where it is missing or not to be read.

    OpenSSL takes what the library does not: other versions, odd encodings.
    """
    if der is None:
        return None
    try:
        return parse(der)
    except Exception:  # not all of the library's errors are ValueErrors
        return None


@lru_cache(READ_CERTIFICATES)
def read_again(der: bytes | None) -> x509.Certificate | None:
    """`readable`, once for each certificate: of peers that TLS has verified."""
    return readable(der)


@lru_cache(READ_CERTIFICATES)
def covers_again(der: bytes | None, name: NodeName) -> bool:
    """`covers`, likewise. By `der`, for to hash a certificate object takes its time."""
    certificate = read_again(der)
    return certificate is not None and covers(certificate, name)


def subject_text(certificate: x509.Certificate) -> str:
    """The subject, for logs and errors, whatever a stranger made of it."""
    return _name(certificate, "subject")


def issuer_text(certificate: x509.Certificate) -> str:
    """The issuer, for logs and errors, whatever a stranger made of it."""
    return _name(certificate, "issuer")


def _name(certificate: x509.Certificate, which: str) -> str:
    try:
        name: x509.Name = getattr(certificate, which)
        return printable(name.rfc4514_string()) or "(an empty name)"
    except Exception:  # a TypeError, for one, where an attribute is no text
        return UNREADABLE


def _date(certificate: x509.Certificate, which: str) -> str:
    try:
        return f"{getattr(certificate, which):%Y-%m-%d %H:%M}"
    except Exception:  # the year 0, for one
        return UNREADABLE


def describe(certificate: x509.Certificate) -> str:
    """Subject, SANs, issuer and dates in one line, for logs and errors."""
    sans = listed(sans_of(certificate))
    return (
        f"subject {subject_text(certificate)}, SANs {sans or 'none'}, "
        f"issued by {issuer_text(certificate)}, valid "
        f"{_date(certificate, 'not_valid_before_utc')} to "
        f"{_date(certificate, 'not_valid_after_utc')} UTC"
    )


def listed(names: Sequence[str]) -> str:
    """Names in a row, for logs and errors; the first few, and how many more."""
    text = ", ".join(map(printable, names[:MOST_NAMES]))
    more = len(names) - MOST_NAMES
    return f"{text} and {more} more" if more > 0 else text


def printable(text: str) -> str:
    """Words that strangers chose, for a log: in one line, and not too many."""
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
