"""Name constraints (RFC 5280, 4.2.1.10) and the hosts that they forbid.

OpenSSL compares the constraints of a chain with the names in the peer's certificate
while TLS verifies the chain. Three comparisons are not enough for node names:

- OpenSSL does not compare the host of a URI with DNS and IP constraints.
- OpenSSL takes ``pay@pay.internal`` for the host of ``fastnode://pay@pay.internal``.
- OpenSSL compares a wildcard such as ``*.internal`` as it is written, and not the hosts
  that the wildcard covers.

This module compares one host with the constraints of a whole chain. Its caller asks
after TLS has verified the chain, so each rule here can only forbid more than OpenSSL
has forbidden.

The rules for one certificate:

- A DNS constraint matches its own host and every host below it. With a leading dot it
  matches only the hosts below it. An empty DNS constraint matches every host.
- A URI constraint matches its own host. With a leading dot it matches only the hosts
  below it. An empty one permits nothing, or excludes every host.
- An IP constraint is a network and a mask. Excluded IPv4 networks also match IPv6
  addresses that map an IPv4 address (``::ffff:10.0.0.5``).
- An excluded constraint that matches forbids the host. If there are permitted
  constraints for this type of name, one of them must match.
- DNS and IP constraints are independent: a permitted DNS name forbids no address.
- A URI with an address for a host is forbidden by any URI constraint (RFC 5280).
- A malformed constraint forbids every name of its type. An extension that cannot be
  read forbids every host. Constraints of other types do not concern hosts.

All certificates above the peer's own count, the trust anchor included. RFC 5280, 6.1,
leaves the trust anchor out of the path; OpenSSL applies the constraints of the anchor,
and so does fastnode.

The extension is read here and not with cryptography, which rejects a whole extension
for one unusual constraint that OpenSSL accepts. Reading takes time in proportion to the
size of the certificate, once; a comparison takes time in proportion to the number of
labels in the host, however many constraints there are.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nsmallest
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from fastnode.certs.sans import read_sans
from fastnode.limits import READ_CERTIFICATES

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Violation", "has_constraints", "violation_of", "violation_of_sans"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: The object identifier of the extension, 2.5.29.30, with its DER header.
_OID: Final = b"\x06\x03\x55\x1d\x1e"

# ASN.1 tags (X.690, RFC 5280 appendix A).
_SEQUENCE: Final = 0x30
_OCTET_STRING: Final = 0x04
_EXTENSIONS: Final = 0xA3
_PERMITTED: Final = 0xA0
_EXCLUDED: Final = 0xA1
_MINIMUM: Final = 0x80
# The types of GeneralName that can name a host, without the class bits.
_DNS: Final = 2
_URI: Final = 6
_IP: Final = 7
_TYPES: Final = {_DNS: "DNS", _URI: "URI", _IP: "IP"}
_CONTEXT: Final = 0x80
_CONSTRUCTED: Final = 0x20

#: A host without its leading and trailing dot. RFC 5280 allows no wildcard here.
_HOST = re.compile(
    r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
)
#: Permitted constraints that an error lists.
_MOST_LISTED: Final = 4
_MOST_CHARACTERS: Final = 80


class Violation(NamedTuple):
    """A constraint that forbids a name.

    Attributes:
        name: the name that is forbidden: a host, or a SAN.
        constraint: the constraint as OpenSSL prints it, for example
            ``excluded;DNS:pay.internal``; or why it cannot be used.
        authority: the certificate that carries the constraint, DER.
    """

    name: str
    constraint: str
    authority: bytes


def has_constraints(der: bytes) -> bool:
    """Tell whether a certificate may carry name constraints, without parsing it."""
    return _OID in der


def violation_of(
    authorities: Iterable[bytes], host: str, *, by_uri: bool
) -> Violation | None:
    """Return the first constraint that forbids a host, or None.

    Args:
        authorities: certificates of the chain above the peer's own, DER. Certificates
            without constraints may be left out.
        host: a DNS name or an IP address, without brackets and port.
        by_uri: the host stands in a URI SAN, so the URI constraints apply too.
    """
    for der in authorities:
        found = _constraints_of(der)
        if found is not None:
            text = found.objection(host, by_uri=by_uri)
            if text is not None:
                return Violation(host, text, der)
    return None


def violation_of_sans(
    certificate: x509.Certificate, authorities: Sequence[bytes]
) -> Violation | None:
    """Return the first SAN that OpenSSL refuses a certificate for, or None.

    This finds the words for a refusal of OpenSSL, so it compares as OpenSSL does: the
    host of a URI is all between ``://`` and the next colon or slash.
    """
    from cryptography import x509

    for der in authorities:
        found = _constraints_of(der)
        if found is None:
            continue
        for san in read_sans(certificate) or ():
            text = None
            if isinstance(san, x509.DNSName):
                text = found.objection_to_dns(san.value.lower())
            elif isinstance(san, x509.IPAddress):
                text = found.objection_to_address(san.value)
            elif isinstance(san, x509.UniformResourceIdentifier):
                host = re.split("[:/]", san.value.partition("://")[2], maxsplit=1)[0]
                text = found.objection_to_uri(host.lower())
            if text is not None:
                return Violation(str(san.value), text, der)
    return None


# --- the constraints of one certificate -------------------------------------------


class _Hosts:
    """Constraints that are hosts: exact ones, and those with a leading dot."""

    def __init__(self) -> None:
        self.whole: set[str] = set()
        self.below: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.whole or self.below)

    def add(self, text: str) -> None:
        """Add one; raise `ValueError` if it is malformed."""
        kind, host = self.whole, text.lower()
        if not host:
            kind.add("")
            return
        if host.startswith("."):
            kind, host = self.below, host[1:]
        host = host.removesuffix(".")
        if not _HOST.fullmatch(host):
            raise ValueError
        kind.add(host)

    def match_exactly(self, host: str) -> str | None:
        """The text of a constraint that matches by the rules for URIs, or None."""
        return host if host in self.whole else self._match_below(host)

    def match_subtree(self, host: str) -> str | None:
        """The text of a constraint that matches by the rules for DNS, or None."""
        if "" in self.whole:
            return ""
        for each in _with_parents(host):
            if each in self.whole:
                return each
        return self._match_below(host)

    def _match_below(self, host: str) -> str | None:
        if self.below:
            for parent in _with_parents(host.partition(".")[2]):
                if parent in self.below:
                    return f".{parent}"
        return None

    def __iter__(self) -> Iterator[str]:
        yield from self.whole
        yield from (f".{each}" for each in self.below)


class _Networks:
    """Constraints that are IP networks, by their length and mask."""

    def __init__(self) -> None:
        self.by_mask: dict[tuple[int, int], set[int]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_mask)

    def add(self, value: bytes) -> None:
        """Add one; raise `ValueError` if it is malformed."""
        if len(value) not in (8, 32):
            raise ValueError
        size = len(value) // 2
        mask = int.from_bytes(value[size:])
        network = int.from_bytes(value[:size]) & mask
        self.by_mask.setdefault((size, mask), set()).add(network)

    def match(self, address: _Address) -> str | None:
        """The text of a constraint that matches, or None."""
        size, number = address.max_prefixlen // 8, int(address)
        for (length, mask), networks in self.by_mask.items():
            if length == size and number & mask in networks:
                return _network_text(length, number & mask, mask)
        return None

    def __iter__(self) -> Iterator[str]:
        for (size, mask), networks in self.by_mask.items():
            for network in networks:
                yield _network_text(size, network, mask)


@dataclass(slots=True)
class _Subtrees:
    """The permitted, or the excluded, constraints of one certificate."""

    dns: _Hosts = field(default_factory=_Hosts)
    uri: _Hosts = field(default_factory=_Hosts)
    ip: _Networks = field(default_factory=_Networks)

    def add(self, kind: int, value: bytes) -> None:
        """Add one constraint; raise `ValueError` if it is malformed."""
        if kind == _IP:
            self.ip.add(value)
        else:
            (self.dns if kind == _DNS else self.uri).add(value.decode("ascii"))


class _NameConstraints:
    """What one certificate permits and excludes.

    Each method ``objection...`` returns the text of a constraint that forbids the name,
    or None.
    """

    def __init__(self) -> None:
        self.permitted = _Subtrees()
        self.excluded = _Subtrees()
        #: Why names of a type are forbidden altogether, by the type.
        self.faults: dict[int, str] = {}

    def objection(self, host: str, *, by_uri: bool) -> str | None:
        """Compare a host with all constraints that concern it."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            host = host.lower().removesuffix(".")
            text = self.objection_to_dns(host)
            if text is None and by_uri:
                text = self.objection_to_uri(host)
            return text
        text = self.objection_to_address(address)
        if text is None and by_uri:
            text = self._objection_to_address_in_uri()
        return text

    def objection_to_dns(self, host: str) -> str | None:
        """Compare a DNS name, lower case and without a trailing dot."""
        if _DNS in self.faults:
            return self.faults[_DNS]
        permitted, excluded = self.permitted.dns, self.excluded.dns
        if permitted and permitted.match_subtree(host) is None:
            return _listed("permitted;DNS", permitted)
        found = excluded.match_subtree(host)
        return None if found is None else _listed("excluded;DNS", [found])

    def objection_to_uri(self, host: str) -> str | None:
        """Compare the host of a URI, lower case and without a trailing dot."""
        if _URI in self.faults:
            return self.faults[_URI]
        permitted, excluded = self.permitted.uri, self.excluded.uri
        if permitted and permitted.match_exactly(host) is None:
            return _listed("permitted;URI", permitted)
        found = "" if "" in excluded.whole else excluded.match_exactly(host)
        return None if found is None else _listed("excluded;URI", [found])

    def objection_to_address(self, address: object) -> str | None:
        """Compare an address. The zone of an IPv6 address does not count."""
        if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            return None  # a network in a SAN, which names no host
        if _IP in self.faults:
            return self.faults[_IP]
        permitted, excluded = self.permitted.ip, self.excluded.ip
        if permitted and permitted.match(address) is None:
            return _listed("permitted;IP", permitted)
        found = excluded.match(address)
        mapped = getattr(address, "ipv4_mapped", None)
        if found is None and mapped is not None:
            found = excluded.match(mapped)
        return None if found is None else _listed("excluded;IP", [found])

    def _objection_to_address_in_uri(self) -> str | None:
        if _URI in self.faults:
            return self.faults[_URI]
        for kind, hosts in (
            ("permitted;URI", self.permitted.uri),
            ("excluded;URI", self.excluded.uri),
        ):
            if hosts:
                return f"{_listed(kind, hosts)}, under which a URI names no address"
        return None


def _with_parents(host: str) -> Iterator[str]:
    """Yield a host, its domain, the domain of that, and so on."""
    while host:
        yield host
        host = host.partition(".")[2]


def _network_text(size: int, network: int, mask: int) -> str:
    kind = ipaddress.IPv4Address if size == 4 else ipaddress.IPv6Address
    ones = mask.bit_count()
    contiguous = mask == ((1 << ones) - 1) << (size * 8 - ones)
    return f"{kind(network)}/{ones if contiguous else kind(mask)}"


def _listed(kind: str, texts: Iterable[str]) -> str:
    """Constraints of one kind, for an error: the first few, and how many more."""
    found = list(texts)
    shown = nsmallest(_MOST_LISTED, found)
    more = len(found) - len(shown)
    text = ", ".join(f"{kind}:{_cut(each)}" for each in shown)
    return f"{text} and {more} more" if more > 0 else text


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


# --- reading --------------------------------------------------------------------


@lru_cache(READ_CERTIFICATES)
def _constraints_of(der: bytes) -> _NameConstraints | None:
    """Read the constraints of a certificate that OpenSSL has verified; None: none."""
    if not has_constraints(der):
        return None
    found = _NameConstraints()
    try:
        extension = _find_extension(der)
        if extension is None:
            return None
        _read_into(found, extension)
    except (ValueError, IndexError):
        why = "name constraints that cannot be read"
        found.faults = dict.fromkeys((_DNS, _URI, _IP), why)
    return found


def _find_extension(der: bytes) -> bytes | None:
    """The value of the extension in a certificate (RFC 5280, 4.1)."""
    certificate = _only(_SEQUENCE, der)
    fields = _only(_SEQUENCE, certificate, more=True)
    found = None
    for tag, body in _elements(fields):
        if tag != _EXTENSIONS:
            continue
        for _, extension in _elements(_only(_SEQUENCE, body)):
            if not extension.startswith(_OID):
                continue
            if found is not None:
                raise ValueError
            *_, (tag_of_value, found) = _elements(extension)
            if tag_of_value != _OCTET_STRING:
                raise ValueError
    return found


def _read_into(constraints: _NameConstraints, extension: bytes) -> None:
    for tag, subtrees in _elements(_only(_SEQUENCE, extension)):
        if tag not in (_PERMITTED, _EXCLUDED):
            raise ValueError
        for kind, subtree in _elements(subtrees):
            if kind != _SEQUENCE:
                raise ValueError
            _read_subtree(constraints, subtree, permitted=tag == _PERMITTED)


def _read_subtree(
    constraints: _NameConstraints, subtree: bytes, *, permitted: bool
) -> None:
    (tag, value), *rest = _elements(subtree)
    kind = tag & 0x1F
    if tag & ~(_CONSTRUCTED | 0x1F) != _CONTEXT:
        raise ValueError
    if kind not in _TYPES:
        return
    into = constraints.permitted if permitted else constraints.excluded
    fault = "which is malformed"
    try:
        # RFC 5280: the minimum is 0 and there is no maximum. OpenSSL refuses others.
        if any(each != (_MINIMUM, b"\0") for each in rest):
            fault = "whose minimum or maximum is not supported"
        elif not tag & _CONSTRUCTED:
            into.add(kind, value)
            return
    except ValueError:
        pass
    which = "permitted" if permitted else "excluded"
    text = value.hex() if kind == _IP else ascii(value)[2:-1]
    constraints.faults.setdefault(kind, f"{which};{_TYPES[kind]}:{_cut(text)}, {fault}")


def _only(tag: int, data: bytes, *, more: bool = False) -> bytes:
    """The body of the one element in `data`, or of the first if there may be more."""
    first, *rest = _elements(data)
    if first[0] != tag or (rest and not more):
        raise ValueError
    return first[1]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and body of DER elements in a row; raise `ValueError` if cut."""
    at, end = 0, len(data)
    while at < end:
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            # 0 is the indefinite length of BER. No certificate has 4 GiB.
            if not 1 <= count <= 4:
                raise ValueError
            size = int.from_bytes(data[at : at + count])
            at += count
        if size > end - at:
            raise ValueError
        yield tag, data[at : at + size]
        at += size
