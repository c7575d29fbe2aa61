"""A remote node as seen from here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from fastnode.limits import GROUP_BYTES

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Address", "Peer"]

#: Host and port.
Address: TypeAlias = tuple[str, int]
#: The length of the group in `Peer.instance`, in hexadecimal digits.
GROUP_DIGITS = 2 * GROUP_BYTES


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a link. Peers can be copied and pickled.

    Attributes:
        name: its node name, ``name@host``.
        address: host and port of its end of the connection.
        certificate: as it was presented; None if none was.
        verified: whether that certificate was verified against our trust.
        tls_version: for example ``TLSv1.3``; None in plaintext.
        cipher: for example ``TLS_AES_256_GCM_SHA384``; None in plaintext.
        group: the key-exchange group, for example ``X25519MLKEM768``, ``X25519`` or
            ``P-256``. None in plaintext, and where the TLS library does not say it:
            where it is linked into the interpreter, or older than OpenSSL 3.0.
        instance: identifies one run of that node; 32 hexadecimal digits.
    """

    name: str
    address: Address
    certificate: x509.Certificate | None = None
    verified: bool = False
    tls_version: str | None = None
    cipher: str | None = None
    group: str | None = None
    instance: str = ""

    @property
    def post_quantum(self) -> bool | None:
        """Whether the key exchange was a hybrid with a post-quantum scheme: then who
        records the connection cannot decrypt it later with a quantum computer.

        None where `group` is None.
        """
        # As `fastnode.groups.is_post_quantum`, which this module cannot import.
        return None if self.group is None else "MLKEM" in self.group

    def is_sibling_of(self, other: Peer) -> bool:
        """Whether the two are different workers of one group, under one name."""
        return (
            self.name == other.name
            and self.instance != other.instance
            and self.instance[:GROUP_DIGITS] == other.instance[:GROUP_DIGITS]
        )

    def __copy__(self) -> Peer:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, Any]) -> Peer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Certificates cannot be pickled. Their DER can.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        shown = values.pop("certificate")
        return _restore, (values, None if shown is None else _der(shown))

    def __str__(self) -> str:
        how = "verified" if self.verified else "not verified"
        return f"{self.name} at {self.address[0]}:{self.address[1]} ({how})"


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _restore(values: dict[str, Any], der: bytes | None) -> Peer:
    """Make a peer from what `pickle` has kept of it."""
    if der is None:
        return Peer(**values)
    from cryptography import x509

    return Peer(**values, certificate=x509.load_der_x509_certificate(der))
