"""Whether the OpenSSL at hand can prove in TLS 1.3 that it holds a private key.

Most keys are of kinds that every OpenSSL can use. For the others, two connections in
memory make a handshake with the very key, once, when a certificate is loaded. So what a
newer OpenSSL can do needs no list here.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fastnode.certs.key_file import load_cert_chain
from fastnode.certs.private_key import PrivateKey, is_common, name_of
from fastnode.certs.rsa_pss import is_rsa_pss, restricted_key
from fastnode.errors import CertificateLoadError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["usable_key"]

#: Flights of a handshake in each direction, with one to spare.
ROUNDS = 4


def usable_key(
    key: PrivateKey, certificates: tuple[x509.Certificate, ...], source: str
) -> bytes:
    """Return a private key as OpenSSL needs it for a certificate, PEM.

    Args:
        certificates: the chain, the certificate of the key first.
        source: how errors call the place where the key is from.

    Raises:
        CertificateLoadError: the OpenSSL of this interpreter cannot sign a TLS 1.3
            handshake with it.
    """
    pss = isinstance(key, rsa.RSAPrivateKey) and is_rsa_pss(certificates[0])
    if pss:
        pem = restricted_key(key, certificates[0])
    else:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if is_common(key) and not pss:
        return pem
    why = _why_unusable(certificates[0].public_bytes(Encoding.PEM), pem)
    if why is not None:
        kind = "RSA-PSS" if pss else name_of(key)
        raise CertificateLoadError(
            f"{source} holds a private key of the kind {kind}, with which the TLS "
            f"library of this interpreter ({ssl.OPENSSL_VERSION}) does not sign TLS "
            f"1.3: a trial handshake fails ({why})",
            hint="use EC P-256 or P-384, Ed25519 or RSA (RFC 8446, 4.2.3), or an "
            "interpreter with a newer OpenSSL",
        )
    return pem


def _why_unusable(chain: bytes, key: bytes) -> str | None:
    """Why a handshake with this pair fails; None: it does not."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        load_cert_chain(server, chain, key)
        _shake(server, client)
    except CertificateLoadError as error:
        return error.message
    except ssl.SSLError as error:
        return (error.reason or str(error)).lower().replace("_", " ")
    return None


def _shake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Make a handshake in memory, or raise `ssl.SSLError`."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(down, up),
        server.wrap_bio(up, down, server_side=True),
    )
    for _ in range(ROUNDS):
        left = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                left += 1
        if not left:
            return
    raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the handshake does not end")
