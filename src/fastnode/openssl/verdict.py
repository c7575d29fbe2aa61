"""What OpenSSL found when it verified a peer's certificate."""

from __future__ import annotations

from typing import Final, NamedTuple

from fastnode import limits

__all__ = ["BURDENS", "AuthorityName", "Verdict", "too_costly"]


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
            presented is accepted; one of `BURDENS`: it was not even decoded.
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


class _Burden(NamedTuple):
    """What is too costly to decode, and what its owner can do about it."""

    text: str
    hint: str


#: By the numbers of fastnode.openssl.burden. In the texts stands what was found.
BURDENS: Final = {
    1001: _Burden(
        "it is not encoded as RFC 5280 says (DER)", "issue it with another program"
    ),
    1002: _Burden(
        f"more than {limits.MAX_CHAIN_CERTIFICATES} certificates came in its chain",
        "the certificate file must hold the certificate and its intermediates only",
    ),
    1003: _Burden(
        "its key is on a curve that is written out, or of a kind that TLS does not use",
        "issue it with a named curve: P-256, P-384 or P-521",
    ),
    1004: _Burden(
        f"its RSA key has {{amount}} bits, more than {limits.MAX_RSA_MODULUS_BITS}",
        "use a smaller RSA key, or P-256",
    ),
    1005: _Burden(
        "the public exponent of its RSA key has {amount} bits, more than "
        f"{limits.MAX_RSA_EXPONENT_BITS}",
        "make the key with the exponent 65537",
    ),
    1006: _Burden(
        "it holds {amount} alternative names or name constraints, more than "
        f"{limits.MAX_CERTIFICATE_NAMES}",
        "spread the names over several certificates",
    ),
    1007: _Burden(
        "its chain asks for {amount} comparisons of names with name constraints, more "
        f"than {limits.MAX_NAME_COMPARISONS}",
        "use fewer names or fewer name constraints",
    ),
}


def too_costly(kind: int, depth: int, amount: int) -> Verdict:
    """The verdict on a certificate that was refused before it was decoded.

    Args:
        kind: one of `BURDENS`.
        depth: which certificate of the message.
        amount: what was found: bits, names or comparisons.
    """
    text = BURDENS[kind].text.format(amount=amount)
    return Verdict(kind, text, depth, (), None, ())
