"""Which certificates of a verified chain carry name constraints."""

from __future__ import annotations

import ssl
from typing import Any, Final

from fastnode.openssl.verdict import Verdict

__all__ = ["constrained_by"]

#: The object identifier of the extension, 2.5.29.30, in DER.
NAME_CONSTRAINTS: Final = b"\x06\x03\x55\x1d\x1e"


def constrained_by(
    tls: ssl.SSLObject | ssl.SSLSocket, verdict: Verdict | None
) -> tuple[bytes, ...] | None:
    """Return the certificates whose name constraints bind the peer's certificate.

    Args:
        tls: verified the peer's certificate; its handshake is complete.
        verdict: what the verify callback found in this handshake; None where
            contexts have no callback.

    Returns:
        Those certificates of the verified chain, from the issuer up to the trust
        anchor, that carry name constraints, DER. None where the chain cannot be
        known: then no name may be taken as verified.
    """
    if verdict is not None:
        return verdict.constrained_by
    chain = _verified_chain(tls)
    if not chain:
        return None
    return tuple(der for der in chain[1:] if NAME_CONSTRAINTS in der)


def _verified_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> list[bytes] | None:
    """The chain as Python tells it, the peer's certificate first."""
    inner: Any = getattr(tls, "_sslobj", None)
    # Public from Python 3.13 on, as SSLObject.get_verified_chain.
    find = getattr(inner, "get_verified_chain", None)
    if find is None:
        return None
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in find() or ()]
