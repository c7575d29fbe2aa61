"""Certificate revocation lists (RFC 5280, 5): parsing, judging, keeping the newest.

Whether a certificate is revoked is OpenSSL's to say, in the handshake. Here a list is
only refused where it could never be of use.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.certs.expiry import when_ended
from fastnode.errors import CertificateLoadError
from fastnode.loggers import fields

if TYPE_CHECKING:
    from cryptography.x509 import CertificateRevocationList as Crl

__all__ = ["CrlSet", "check_crl", "parse_crls", "warn_if_outdated"]

log = logging.getLogger("fastnode.certs")

#: RFC 7468, 7.
CRL_BLOCK: Final = re.compile(
    rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL
)
#: Whose list it is: the issuer's name, its key, and which part of its certificates.
_Scope: TypeAlias = tuple[bytes, bytes, bytes]
_T = TypeVar("_T", bound=x509.ExtensionType)


class CrlSet:
    """The newest list of each issuer. Immutable; `with_added` makes another."""

    __slots__ = ("_newest",)

    def __init__(self, newest: dict[_Scope, Crl] | None = None) -> None:
        self._newest = newest or {}

    def with_added(self, crls: Iterable[Crl]) -> CrlSet:
        """These lists too; of two of the same issuer the newer one."""
        newest = dict(self._newest)
        for crl in crls:
            scope = _scope(crl)
            held = newest.get(scope)
            if held is None or _age(crl) >= _age(held):
                newest[scope] = crl
        return CrlSet(newest)

    @property
    def crls(self) -> tuple[Crl, ...]:
        """The lists, in the order in which their issuers came."""
        return tuple(self._newest.values())

    @property
    def pem(self) -> str:
        """The lists, as PEM text."""
        return "".join(crl.public_bytes(Encoding.PEM).decode() for crl in self.crls)

    def __len__(self) -> int:
        return len(self._newest)


def parse_crls(data: bytes, source: str) -> tuple[Crl, ...]:
    """All lists in PEM text, or the one in DER.

    Raises:
        CertificateLoadError: there is none, one is damaged, or it is a delta, which
            means nothing without the list that it amends (RFC 5280, 5.2.4).
    """
    blocks = CRL_BLOCK.findall(data)
    try:
        if b"-----BEGIN " not in data:
            found = [x509.load_der_x509_crl(data)]
        elif not blocks or len(blocks) < data.count(b"-----BEGIN X509 CRL-----"):
            raise ValueError("no block, or one without its end")
        else:
            found = [x509.load_pem_x509_crl(block) for block in blocks]
        for crl in found:
            _scope(crl)
            _age(crl)
        unfit = [why for crl in found if (why := _unfit(crl))]
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise CertificateLoadError(
            f"{source} holds no certificate revocation list that can be read: {error}",
            hint="it must hold PEM blocks that begin with BEGIN X509 CRL, or one list "
            "in DER",
        ) from None
    if unfit:
        raise CertificateLoadError(
            f"{source} holds a certificate revocation list {unfit[0]}, which OpenSSL "
            "would not look at",
            hint="load the complete list of the authority itself instead",
        )
    return tuple(found)


def _unfit(crl: Crl) -> str | None:
    """Why a list could never say that a certificate is revoked (RFC 5280, 5.2)."""
    if _extension(crl, x509.DeltaCRLIndicator) is not None:
        return "that is a delta"
    part = _extension(crl, x509.IssuingDistributionPoint)
    if part is not None and part.indirect_crl:
        return "that is indirect"
    if part is not None and part.only_some_reasons:
        return "for some reasons only"
    return None


def check_crl(crl: Crl, authorities: Iterable[x509.Certificate], source: str) -> None:
    """Raise `CertificateLoadError` if an authority of the list's issuer is there, and
    none of that name has signed it (RFC 5280, 6.3.3 (f)), or it names another key.
    """
    issuers = [each for each in authorities if each.subject == crl.issuer]
    signers = [issuer for issuer in issuers if _signed(crl, issuer)]
    name = crl.issuer.rfc4514_string()
    if signers and not any(_names_key_of(crl, signer) for signer in signers):
        raise CertificateLoadError(
            f"{source} holds a certificate revocation list of {name} whose authority "
            "key identifier is not that authority's: OpenSSL would not look at it",
            hint="let the authority make it with the key identifier of its own "
            "certificate (RFC 5280, 5.2.1)",
        )
    if issuers and not signers:
        raise CertificateLoadError(
            f"{source} holds a certificate revocation list in the name of {name}, "
            "which that authority has not signed",
            hint="fetch the list again, from the authority whose certificate is in "
            "the pool",
        )


def warn_if_outdated(crl: Crl, source: str, now: datetime | None = None) -> None:
    """Log a warning for a list that has expired or is not valid yet.

    Such a list refuses every certificate of its issuer.
    """
    now = now or datetime.now(UTC)
    name = crl.issuer.rfc4514_string()
    end = crl.next_update_utc
    if end is not None and now >= end:
        log.warning(
            "%s: the certificate revocation list of %s %s: peers that it is about "
            "are refused until a new one is loaded",
            source,
            name,
            when_ended(end, now),
            extra=fields("crl_expired", file=source, issuer=name),
        )
    elif crl.last_update_utc > now:
        log.warning(
            "%s: the certificate revocation list of %s is not valid before "
            "%s UTC: peers that it is about are refused until then; check the clocks",
            source,
            name,
            f"{crl.last_update_utc:%Y-%m-%d %H:%M}",
            extra=fields("crl_not_valid_yet", file=source, issuer=name),
        )


def _signed(crl: Crl, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):  # a key of another kind
        return False


def _names_key_of(crl: Crl, issuer: x509.Certificate) -> bool:
    """Whether the list's authority key identifier, if there is one, fits."""
    named = _extension(crl, x509.AuthorityKeyIdentifier)
    if named is None:
        return True
    serial = named.authority_cert_serial_number
    if serial is not None and serial != issuer.serial_number:
        return False
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return True
    return named.key_identifier in (None, own.value.digest)


def _scope(crl: Crl) -> _Scope:
    key = _extension(crl, x509.AuthorityKeyIdentifier)
    part = _extension(crl, x509.IssuingDistributionPoint)
    return (
        crl.issuer.public_bytes(),
        (key.key_identifier or b"") if key is not None else b"",
        part.public_bytes() if part is not None else b"",
    )


def _age(crl: Crl) -> tuple[datetime, int]:
    """Greater for the newer one; lists of one second differ by number (5.2.3)."""
    number = _extension(crl, x509.CRLNumber)
    return crl.last_update_utc, 0 if number is None else number.crl_number


def _extension(crl: Crl, kind: type[_T]) -> _T | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
