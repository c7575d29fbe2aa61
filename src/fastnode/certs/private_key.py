"""Private keys out of PEM text, and the passwords that open them.

No error here quotes what a library said about a key: it may quote what it was given.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import cryptography
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    rsa,
    x448,
    x25519,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fastnode.certs.pem import found_instead
from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "Password",
    "PrivateKey",
    "check_kind",
    "is_common",
    "name_of",
    "parse_private_key",
    "secret_of",
]

#: Any private key of the library.
PrivateKey: TypeAlias = "PrivateKeyTypes"

#: What decrypts a private key; a callable is asked when it is needed, once.
Password: TypeAlias = str | bytes | Callable[[], str | bytes] | None

#: One PEM block of a key, of any of the kinds there are (RFC 7468, 10, 11 and 13).
KEY_BLOCK: Final = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)
#: What every OpenSSL signs TLS 1.3 with (RFC 8446, 4.2.3).
KINDS: Final = (
    ec.EllipticCurvePrivateKey,
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    rsa.RSAPrivateKey,
)
CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
#: Curves for which TLS 1.3 has signatures that not every OpenSSL knows (RFC 8734).
RARE_CURVES: Final = (ec.BrainpoolP256R1, ec.BrainpoolP384R1, ec.BrainpoolP512R1)
#: What no TLS 1.3 signs with.
NEVER: Final = (
    dsa.DSAPrivateKey,
    x448.X448PrivateKey,
    x25519.X25519PrivateKey,
)
#: Object identifiers of the post-quantum signatures of NIST, DER without the last byte
#: (RFC 9881, RFC 9909).
NIST_SIGNATURES: Final = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03"
ML_DSA: Final = {0x11: "ML-DSA-44", 0x12: "ML-DSA-65", 0x13: "ML-DSA-87"}


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
    if blocks[0].group(1) == b"OPENSSH PRIVATE KEY":
        raise CertificateLoadError(
            f"{source} holds a key in the format of OpenSSH, which TLS does not use",
            hint="convert it: ssh-keygen -p -m PKCS8 -f KEYFILE (it is overwritten)",
        )
    # PKCS#8 says it in its label, the older forms in a header (RFC 1421, 4.6.1.1).
    encrypted = b"ENCRYPTED" in block.partition(b"\n\n")[0]
    secret = secret_of(password, source) if encrypted else None
    if encrypted and secret is None:
        raise CertificateLoadError(f"{source} is encrypted", hint="pass its password")
    try:
        key = load_pem_private_key(block, secret)
    except Exception as error:
        raise _unreadable(error, block, source, secret) from None
    check_kind(key, source)
    return key


def _unreadable(
    error: Exception, block: bytes, source: str, secret: bytes | None
) -> CertificateLoadError:
    """The error for a key that the library does not read, without its words.

    Args:
        secret: the password of an encrypted key; None: it is not encrypted.
    """
    text = f"{source} holds no private key that can be read"
    hint = "the file is damaged, or was not written to its end"
    if secret is not None and _cipher_is_unknown(error, block, secret):
        text = f"{source} is encrypted with a cipher that cannot be read here"
        hint = (
            "encrypt it with AES: openssl pkey -in FILE | "
            "openssl pkcs8 -topk8 -v2 aes-256-cbc -out FILE.pem"
        )
    elif secret is not None:
        hint = "the password is wrong, or the file is damaged"
    elif (kind := _post_quantum(block)) is not None:
        text = (
            f"{source} holds a private key of the kind {kind}, which the cryptography "
            f"library {cryptography.__version__} does not read"
        )
        hint = "upgrade cryptography, or use EC P-256, P-384, Ed25519 or RSA"
    elif isinstance(error, UnsupportedAlgorithm):
        text = f"{source} holds a private key of a kind that cannot be read here"
        hint = "use EC P-256 or P-384, Ed25519 or RSA (RFC 8446, 4.2.3)"
    return CertificateLoadError(text, hint=hint)


#: What the library says of an encryption that it does not have. It quotes no secret.
_UNKNOWN_CIPHER: Final = re.compile(r"(?i)unknown (key encryption|cipher)|unsupported")


def _cipher_is_unknown(error: Exception, block: bytes, secret: bytes) -> bool:
    """Whether the library cannot decrypt a key, whatever the password.

    An encrypted key has no checksum. With a wrong password, one in some hundred looks
    like a key of an unknown kind. With two more passwords it does not look so again.
    """
    for more in (b"1", b"2"):
        if not _is_unknown(error):
            return False
        try:
            load_pem_private_key(block, secret + more)
        except Exception as another:
            error = another
        else:
            return False
    return _is_unknown(error)


def _is_unknown(error: Exception) -> bool:
    """Whether the library says that it does not have something."""
    return isinstance(error, UnsupportedAlgorithm) or (
        _UNKNOWN_CIPHER.search(str(error)) is not None
    )


def _post_quantum(block: bytes) -> str | None:
    """The name of the post-quantum signature that a PKCS#8 block is for, if it is."""
    try:
        der = base64.b64decode(b"".join(block.split(b"-----")[2].split()))
    except ValueError:
        return None
    at = der.find(NIST_SIGNATURES, 0, 32)
    number = der[at + len(NIST_SIGNATURES)] if at >= 0 else 0
    if not 0x11 <= number <= 0x1F:
        return None
    return ML_DSA.get(number, "SLH-DSA")


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
    """Raise `CertificateLoadError` for a key that no TLS 1.3 signs with."""
    never = isinstance(key, NEVER)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        never = not isinstance(key.curve, (*CURVES, *RARE_CURVES))
    if never:
        raise CertificateLoadError(
            f"{source} holds a private key of the kind {name_of(key)}, a kind that TLS "
            "1.3 does not sign with",
            hint="use EC P-256 or P-384, Ed25519 or RSA (RFC 8446, 4.2.3)",
        )


def is_common(key: object) -> bool:
    """Whether every OpenSSL can sign TLS 1.3 with a key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return isinstance(key.curve, CURVES)
    return isinstance(key, KINDS)


def name_of(key: object) -> str:
    """The kind of a key, for errors: ``EC secp256k1``, ``DSA``, ``MLDSA65``."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"EC {key.curve.name}"
    name = type(key).__name__.removeprefix("_").partition("PrivateKey")[0]
    if name.startswith("MLDSA"):
        return f"ML-DSA-{name.removeprefix('MLDSA')}"
    return name


def _no_key(data: bytes) -> str:
    if b"PRIVATE KEY-----" in data:
        return "the file is damaged, or was not written to its end"
    if b"BEGIN CERTIFICATE-----" in data:
        return "certificate and key are swapped, or the key is in a file of its own"
    must = "it must hold a PEM block that begins with BEGIN ... PRIVATE KEY"
    known = found_instead(data)
    if known is None:
        return must
    return f"it is {known[0]}; {known[1] or must}"
