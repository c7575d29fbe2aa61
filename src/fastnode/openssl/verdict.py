"""What OpenSSL found when it verified a peer's certificate."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["AuthorityName", "Verdict"]


class AuthorityName(NamedTuple):
    """The name of an authority, as the peer sent it.

    Attributes:
        der: the distinguished name, DER.
        text: the same as RFC 4514 writes it, cut to 256 bytes.
    """

    der: bytes
    text: str


class Verdict(NamedTuple):
    """The outcome of one verification.

    Attributes:
        code: ``X509_V_ERR_*`` (openssl/x509_vfy.h); 0: it verified, or whatever is
            presented is accepted.
        text: OpenSSL's words for `code`.
        depth: which certificate `code` speaks of: 0 the peer's own, 1 its issuer...
        presented: the certificates that the peer presented, its own first, DER.
        culprit: the certificate that `code` speaks of, DER; None if there is none.
        authorities: those whose certificates the server said it takes (RFC 8446,
            4.2.4), 64 at most; dialers only, and not in TLS 1.2, where they come too
            late.
        constrained_by: those certificates of the chain that OpenSSL built, from the
            issuer up to the trust anchor, that carry name constraints, DER.
    """

    code: int
    text: str
    depth: int
    presented: tuple[bytes, ...]
    culprit: bytes | None
    authorities: tuple[AuthorityName, ...]
    constrained_by: tuple[bytes, ...] = ()
