"""Certificates in PEM text, and words for what is there in their place."""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from fastnode.errors import CertificateLoadError

__all__ = ["found_instead", "parse_authorities", "parse_certificates"]

#: RFC 7468, 5.
CERTIFICATE_BLOCK: Final = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----.*?-----END (?:X509 )?CERTIFICATE-----",
    re.DOTALL,
)
CERTIFICATE_BEGIN: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")
LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 #]+)-----")

MUST_HOLD: Final = "it must hold PEM blocks that begin with BEGIN CERTIFICATE"

#: Blocks that are no plain certificates: what they are, and what to do.
_OTHERS: Final = {
    b"TRUSTED CERTIFICATE": (
        "a certificate with OpenSSL's trust settings (BEGIN TRUSTED CERTIFICATE)",
        "write it without them: openssl x509 -in FILE -out FILE.pem",
    ),
    b"PKCS7": (
        "PKCS#7 (BEGIN PKCS7)",
        "take its certificates out: openssl pkcs7 -print_certs -in FILE -out FILE.pem",
    ),
    b"CMS": (
        "CMS (BEGIN CMS)",
        "take its certificates out: openssl pkcs7 -print_certs -in FILE -out FILE.pem",
    ),
    b"X509 CRL": (
        "a certificate revocation list (BEGIN X509 CRL)",
        "load it with CertPool.load_crl, out of a file of its own",
    ),
    b"CERTIFICATE REQUEST": (
        "a certificate signing request (BEGIN CERTIFICATE REQUEST), not a certificate",
        "send it to the authority, and load what that returns",
    ),
    b"NEW CERTIFICATE REQUEST": (
        "a certificate signing request, not a certificate",
        "send it to the authority, and load what that returns",
    ),
    b"OPENSSH PRIVATE KEY": (
        "a key of OpenSSH, not a certificate",
        "load an X.509 certificate; OpenSSH has a format of its own",
    ),
    b"PUBLIC KEY": (
        "a public key, not a certificate",
        "load the certificate that the authority issued for it",
    ),
}
#: What must not be passed over beside certificates: it would be missing later.
_NOT_BESIDE_A_CHAIN: Final = (b"TRUSTED CERTIFICATE", b"PKCS7", b"CMS")
_NOT_BESIDE_AUTHORITIES: Final = (*_NOT_BESIDE_A_CHAIN, b"X509 CRL")


def parse_certificates(data: bytes, source: str) -> tuple[x509.Certificate, ...]:
    """Return all certificates in PEM text, in their order. Keys may be among them.

    Args:
        source: how errors call the text.

    Raises:
        CertificateLoadError: there is none, one is damaged, or there is something else
            that would be left out.
    """
    return _parse(data, source, _NOT_BESIDE_A_CHAIN)


def parse_authorities(data: bytes, source: str) -> tuple[x509.Certificate, ...]:
    """As `parse_certificates`. A revocation list among them is an error too."""
    return _parse(data, source, _NOT_BESIDE_AUTHORITIES)


def found_instead(data: bytes) -> tuple[str, str] | None:
    """Say what is there in place of PEM certificates or keys, and what to do.

    Returns:
        What the data is, to follow "is", and a hint, or an empty text; None: it cannot
        be told.
    """
    if not data.strip():
        return "empty", ""
    for label in LABEL.findall(data):
        if label in _OTHERS:
            what, remedy = _OTHERS[label]
            return what, remedy
    if data[:1] != b"\x30":  # a SEQUENCE, with which DER begins
        return None
    for what, kind, read in (
        ("a certificate", "x509", x509.load_der_x509_certificate),
        ("a certificate signing request", "req", x509.load_der_x509_csr),
        ("a certificate revocation list", "crl", x509.load_der_x509_crl),
        ("PKCS#7", "pkcs7 -print_certs", pkcs7.load_der_pkcs7_certificates),
    ):
        try:
            read(data)
        except Exception:  # noqa: S112 - it is something else
            continue
        return (
            f"{what} in DER, not PEM",
            f"convert it: openssl {kind} -inform DER -in FILE -out FILE.pem",
        )
    return (
        "DER or PKCS#12, not PEM",
        "use Certificate.load_pkcs12, or convert it with openssl",
    )


def _parse(
    data: bytes, source: str, refused: tuple[bytes, ...]
) -> tuple[x509.Certificate, ...]:
    # The blocks alone: a key in the same file is judged by itself.
    blocks = CERTIFICATE_BLOCK.findall(data)
    for label in LABEL.findall(data):
        if label in refused:
            what, remedy = _OTHERS[label]
            beside = ", beside others" if blocks else ""
            raise CertificateLoadError(
                f"{source} holds {what}{beside}, which is not read", hint=remedy
            )
    if not blocks and not CERTIFICATE_BEGIN.search(data):
        raise _no_certificate(data, source)
    try:
        if len(blocks) < len(CERTIFICATE_BEGIN.findall(data)):
            raise ValueError("a block without its end")
        return tuple(x509.load_pem_x509_certificate(block) for block in blocks)
    except ValueError as error:
        raise CertificateLoadError(
            f"{source} holds no certificate that can be read: {_plain(error)}",
            hint="a block from BEGIN CERTIFICATE to END CERTIFICATE is damaged or cut",
        ) from None


def _no_certificate(data: bytes, source: str) -> CertificateLoadError:
    known = found_instead(data)
    if known is not None:
        return CertificateLoadError(
            f"{source} holds no certificate that can be read: it is {known[0]}",
            hint=known[1] or f"{MUST_HOLD}; was it cut off while it was written?",
        )
    hint = MUST_HOLD
    if b"PRIVATE KEY-----" in data:
        hint = "certificate and key are swapped"
    return CertificateLoadError(
        f"{source} holds no certificate that can be read: no block of one", hint=hint
    )


def _plain(error: ValueError) -> str:
    """The text of an error of the library, without the address of its FAQ."""
    text = str(error)
    return "its PEM text is damaged" if "https://" in text else text
