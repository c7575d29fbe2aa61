"""Private keys out of PEM text, and the passwords that open them.

No error here quotes what a library said about a key: it may quote what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Password", "check_kind", "not_pem", "parse_private_key", "secret_of"]

#: What decrypts a private key; a callable is asked when it is needed, once.
Password: TypeAlias = str | bytes | Callable[[], str | bytes] | None

#: One PEM block of a key, of any of the kinds there are (RFC 7468, 10, 11 and 13).
KEY_BLOCK: Final = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)
#: What RFC 8446, 4.2.3 has signature schemes for.
KINDS: Final = (
    ec.EllipticCurvePrivateKey,
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    rsa.RSAPrivateKey,
)
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def parse_private_key(data: bytes, password: Password, source: str) -> PrivateKeyTypes:
    """The one private key in PEM text, which may hold certificates too.

    Args:
        password: not used where the key is not encrypted: one setting often serves
            several files.
        source: how errors call where the text is from.

    Raises:
        CertificateLoadError: none or several, damaged, the password is missing or
            wrong, or TLS has no use for such a key.
    """
    blocks = list(KEY_BLOCK.finditer(data))
    if not blocks:
        raise CertificateLoadError(
            f"{source} holds no private key that can be read", hint=_no_key(data)
        )
    if len(blocks) > 1:
        raise CertificateLoadError(
            f"{source} holds {len(blocks)} private keys",
            hint="leave only the key of the certificate in it",
        )
    block = blocks[0].group()
    # PKCS#8 says it in its label, the older forms in a header (RFC 1421, 4.6.1.1).
    encrypted = b"ENCRYPTED" in block.partition(b"\n\n")[0]
    secret = secret_of(password, source) if encrypted else None
    if encrypted and secret is None:
        raise CertificateLoadError(f"{source} is encrypted", hint="pass its password")
    try:
        key = load_pem_private_key(block, secret)
    except UnsupportedAlgorithm:
        raise CertificateLoadError(
            f"{source} holds a private key of a kind that cannot be read here",
            hint="convert it: openssl pkcs8 -topk8",
        ) from None
    except Exception:
        hint = "the file is damaged, or was not written to its end"
        if encrypted:
            hint = "the password is wrong, or the file is damaged"
        raise CertificateLoadError(
            f"{source} holds no private key that can be read", hint=hint
        ) from None
    check_kind(key, source)
    return key


def secret_of(password: Password, source: str) -> bytes | None:
    """A password as bytes; a callable is asked for it.

    Raises:
        CertificateLoadError: it is, or the callable returned, something else; or the
            callable raised.
    """
    value: object = password
    if callable(password):
        try:
            value = password()
        except Exception as error:
            raise CertificateLoadError(
                f"{source} is encrypted, and asking for its password failed: "
                f"{type(error).__name__}",
                hint="mend the callable that was given as password",
            ) from error
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes) or (value is None and password is None):
        return value
    who = "the callable for it returned" if callable(password) else "it is"
    raise CertificateLoadError(
        f"the password of {source} is to be str or bytes: {who} {type(value).__name__}",
        hint="pass str, bytes, or a callable that returns one of them",
    )


def check_kind(key: object, source: str) -> None:
    """Raise `CertificateLoadError` for a key that TLS 1.3 cannot sign with."""
    usable = isinstance(key, KINDS)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        usable = isinstance(key.curve, CURVES)
    if not usable:
        raise CertificateLoadError(
            f"{source} holds a private key of a kind that TLS 1.3 does not sign with",
            hint="use EC P-256 or P-384, Ed25519 or RSA (RFC 8446, 4.2.3)",
        )


def not_pem(data: bytes) -> str | None:
    """A hint for files that are binary: DER and PKCS#12 begin with a SEQUENCE."""
    if data[:1] != b"\x30":
        return None
    return (
        "it is DER or PKCS#12, not PEM: use Certificate.load_pkcs12, or convert it "
        "with openssl"
    )


def _no_key(data: bytes) -> str:
    if b"PRIVATE KEY-----" in data:
        return "the file is damaged, or was not written to its end"
    if b"BEGIN CERTIFICATE" in data:
        return "certificate and key are swapped, or the key is in a file of its own"
    return (
        not_pem(data)
        or "it must hold a PEM block that begins with BEGIN ... PRIVATE KEY"
    )
