"""What a certificate says about who shows it.

Every node imports this; cryptography is loaded where there is a certificate to read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from fastnode.certs.name_constraints import Violation, violation_of
from fastnode.certs.sans import read_sans, sans_of, why_unreadable
from fastnode.errors import ConfigError
from fastnode.limits import READ_CERTIFICATES
from fastnode.loggers import escaped
from fastnode.names import NodeName

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "address_as_dns",
    "covers",
    "covers_again",
    "covers_host",
    "describe",
    "describe_violation",
    "forbidding",
    "identity_of",
    "issuer_text",
    "listed",
    "names_text",
    "node_uris",
    "parse",
    "printable",
    "read_again",
    "readable",
    "remedy_for",
    "remedy_of",
    "subject_text",
]

#: What is shown of a stranger's certificate in logs and errors.
MOST_NAMES: Final = 8
MOST_CHARACTERS: Final = 120
UNREADABLE: Final = "(unreadable)"
NODE_URI: Final = "fastnode://"


def parse(der: bytes) -> x509.Certificate:
    """A certificate as TLS presents it."""
    from cryptography import x509

    return x509.load_der_x509_certificate(der)


def covers(
    certificate: x509.Certificate, name: NodeName, authorities: Sequence[bytes]
) -> bool:
    """Tell whether a certificate allows its holder to use a node name.

    One of its subject alternative names must be the URI ``fastnode://name@host``, or
    cover the host by the rules of RFC 9525, 6.3 and 6.4: DNS names without regard to
    case, a wildcard only as the whole left-most label, addresses only by IP SANs. The
    Common Name never counts. And the name constraints of the chain must allow the host.

    Args:
        authorities: the certificates of the verified chain, above this one, that
            carry name constraints, DER; others may be among them.
    """
    by_uri, by_host = _ways(certificate, name)
    host = name.host
    return (by_host and violation_of(authorities, host, by_uri=False) is None) or (
        by_uri and violation_of(authorities, host, by_uri=True) is None
    )


def covers_host(
    certificate: x509.Certificate, host: str, authorities: Sequence[bytes]
) -> bool:
    """Tell whether a DNS or IP SAN of a certificate covers a host, and the name
    constraints of its chain allow the host.

    Args:
        host: as `fastnode.names.verified_host` writes it.
        authorities: as for `covers`.
    """
    sans = read_sans(certificate)
    if sans is None or not _covers_host(sans, host):
        return False
    return violation_of(authorities, host, by_uri=False) is None


def node_uris(
    certificate: x509.Certificate, authorities: Sequence[bytes]
) -> tuple[NodeName, ...]:
    """Return the node names that a certificate has as URI SANs, if the name constraints
    of its chain allow their hosts. Other URIs are skipped.

    Args:
        authorities: as for `covers`.
    """
    from cryptography import x509

    sans = read_sans(certificate)
    if sans is None:
        return ()
    found = []
    for uri in sans.get_values_for_type(x509.UniformResourceIdentifier):
        try:
            name = NodeName.parse(uri.removeprefix(NODE_URI))
        except ConfigError:
            continue
        allowed = violation_of(authorities, name.host, by_uri=True) is None
        if uri.startswith(NODE_URI) and allowed:
            found.append(name)
    return tuple(found)


def forbidding(
    certificate: x509.Certificate, name: NodeName, authorities: Sequence[bytes]
) -> Violation | None:
    """Return the constraint that forbids a name which the SANs alone would cover.

    None: the SANs do not cover the name, or no constraint forbids it. The arguments
    are those of `covers`.
    """
    by_uri, by_host = _ways(certificate, name)
    if by_host:
        return violation_of(authorities, name.host, by_uri=False)
    return violation_of(authorities, name.host, by_uri=True) if by_uri else None


def _ways(certificate: x509.Certificate, name: NodeName) -> tuple[bool, bool]:
    """Whether a URI SAN covers a name, and whether a DNS or IP SAN does."""
    from cryptography import x509

    sans = read_sans(certificate)
    if sans is None:
        return False, False
    uris = sans.get_values_for_type(x509.UniformResourceIdentifier)
    by_uri = name.uri in uris or any(_names(uri, name) for uri in uris)
    return by_uri, _covers_host(sans, name.host)


def _names(uri: str, name: NodeName) -> bool:
    """Whether a URI is that of a node name, with its host in another form."""
    if not uri.startswith(NODE_URI):
        return False
    try:
        return NodeName.parse(uri.removeprefix(NODE_URI)) == name
    except ConfigError:
        return False


def _covers_host(sans: x509.SubjectAlternativeName, host: str) -> bool:
    from cryptography import x509

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        host = host.lower().rstrip(".")
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
def covers_again(
    der: bytes | None, name: NodeName, authorities: tuple[bytes, ...]
) -> bool:
    """`covers`, likewise. By `der`, for to hash a certificate object takes its time."""
    certificate = read_again(der)
    return certificate is not None and covers(certificate, name, authorities)


def identity_of(der: bytes | None, *, verified: bool) -> Hashable:
    """Return what counts as one peer: None without a certificate.

    For a verified certificate it is what the authority says of the holder: issuer,
    subject and subject alternative names. So a renewed certificate is the same identity
    as the old one. A certificate that nobody verified says nothing, and is an identity
    of its own.
    """
    if not der:
        return None
    return _certified(der) if verified else sha256(der).digest()


@lru_cache(READ_CERTIFICATES)
def _certified(der: bytes) -> Hashable:
    certificate = read_again(der)
    try:
        assert certificate is not None
        return (
            certificate.issuer.public_bytes(),
            certificate.subject.public_bytes(),
            tuple(sorted(sans_of(certificate))),
        )
    except Exception:
        # A name that OpenSSL takes and cryptography cannot encode.
        return sha256(der).digest()


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
    sans = names_text(certificate)
    return (
        f"subject {subject_text(certificate)}, SANs {sans or 'none'}, "
        f"issued by {issuer_text(certificate)}, valid "
        f"{_date(certificate, 'not_valid_before_utc')} to "
        f"{_date(certificate, 'not_valid_after_utc')} UTC"
    )


def names_text(certificate: x509.Certificate) -> str:
    """The SANs of a certificate, for logs and errors; empty if it has none."""
    why = why_unreadable(certificate)
    if why is None:
        return listed(sans_of(certificate))
    return f"names that cannot be read ({printable(why)})"


def remedy_for(certificate: x509.Certificate, name: NodeName) -> str:
    """Say which SAN would cover a node name, for hints."""
    broken = ""
    if why_unreadable(certificate) is not None:
        broken = "an extension of the certificate is malformed, so no SAN counts: "
    return (
        f"{broken}{address_as_dns(certificate, name.host)}issue it a certificate with "
        f"the URI SAN {name.uri}, or with the DNS or IP SAN {name.host}"
    )


def address_as_dns(certificate: x509.Certificate, host: str) -> str:
    """Say so if an address stands among the DNS SANs, where it names nobody; else
    nothing. The text begins a hint."""
    from cryptography import x509

    sans = read_sans(certificate)
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    for text in sans.get_values_for_type(x509.DNSName) if sans is not None else ():
        try:
            if ipaddress.ip_address(text) == address:
                return f"{address} is a DNS SAN there, and must be an IP SAN: "
        except ValueError:
            continue
    return ""


def describe_violation(violation: Violation) -> str:
    """Say which constraint of which certificate forbids a name, for logs and errors."""
    carrier = readable(violation.authority)
    name = subject_text(carrier) if carrier is not None else "an authority"
    return (
        f"the name constraints of {name} forbid {printable(violation.name)}: "
        f"{violation.constraint}"
    )


def remedy_of(violation: Violation) -> str:
    """Say what to do about a constraint that forbids a name, for hints."""
    remedy = (
        "issue the certificate by an authority whose name constraints allow "
        f"{printable(violation.name)}, or make a new certificate for that authority"
    )
    if violation.name.startswith("fastnode://") and ";URI:" in violation.constraint:
        # See `fastnode.certs.name_constraints`.
        remedy += (
            "; OpenSSL compares name@host with URI constraints, so permit the domain "
            "with a leading dot"
        )
    return remedy


def listed(names: Sequence[str]) -> str:
    """Names in a row, for logs and errors; the first few, and how many more."""
    text = ", ".join(map(printable, names[:MOST_NAMES]))
    more = len(names) - MOST_NAMES
    return f"{text} and {more} more" if more > 0 else text


def printable(text: str) -> str:
    """Return words that strangers chose, for a log: on one line, and not too many."""
    return escaped(text, MOST_CHARACTERS)
