"""Subject alternative names: reading those of a certificate.

Every node imports this; cryptography is loaded where there is a certificate to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["read_sans", "sans_of"]


def read_sans(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """The extension; None where there is none, or it is malformed."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        return None


def why_unreadable(certificate: x509.Certificate) -> str | None:
    """Say why the extensions of a certificate cannot be read; None: they can be."""
    from cryptography import x509

    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    except (
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ) as error:
        return str(error)
    return None


def sans_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS, IP and URI subject alternative names of a certificate, as text."""
    from cryptography import x509

    kinds = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier)
    sans = read_sans(certificate) or ()
    return tuple(str(san.value) for san in sans if isinstance(san, kinds))
