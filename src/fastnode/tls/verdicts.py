"""Our verdict on a peer's certificate, in words that a person can act on.

Every node imports this; cryptography is loaded where there is a certificate to read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastnode.certs.expiry import day_and_distance
from fastnode.certs.name_constraints import violation_of_sans
from fastnode.errors import (
    CertificateExpired,
    CertificateRevoked,
    FastnodeError,
    HandshakeError,
    HostnameMismatch,
    RevocationListExpired,
    Side,
    UnknownAuthority,
)
from fastnode.loggers import fields
from fastnode.openssl.verdict import BURDENS, Verdict
from fastnode.tls.evidence import Evidence
from fastnode.tls.identity import (
    MOST_NAMES,
    address_as_dns,
    describe_violation,
    issuer_text,
    listed,
    names_text,
    readable,
    remedy_of,
    subject_text,
)

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["explain"]

log = logging.getLogger("fastnode.tls")

#: X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT (openssl/x509_vfy.h).
SELF_SIGNED: Final = 18


def explain(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    """The error for a certificate of the peer that this side refused."""
    describe = _DESCRIPTIONS.get(verdict.code, _strictly)
    try:
        error = describe(evidence, verdict)
    except Exception as raised:
        # Strangers make certificates of whatever they like; that they are refused
        # does not depend on finding words for it.
        log.exception(
            "no words for a refusal: %s",
            verdict.text,
            extra=fields("refusal_not_explained", error=raised),
        )
        error = describe(evidence._replace(verdict=None), bare(verdict))
    error.side = Side.LOCAL
    return error


def bare(verdict: Verdict) -> Verdict:
    """A verdict without the certificates that it is about."""
    return verdict._replace(presented=(), culprit=None)


def _which(evidence: Evidence, verdict: Verdict) -> str:
    """The certificate that the verdict speaks of, in words."""
    if verdict.depth == 0:
        return evidence.whose
    culprit = readable(verdict.culprit)
    name = subject_text(culprit) if culprit is not None else "an issuer"
    return f"the certificate of {name}, in the chain of {evidence.whose},"


def _expired(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    culprit = readable(verdict.culprit)
    when = "" if culprit is None else (
        f"it expired on {day_and_distance(culprit.not_valid_after_utc)}: "
    )  # fmt: skip
    if _is_ours(evidence, verdict):
        remedy = f"it is in {evidence.our_pool}: put its successor there"
    elif verdict.depth == 0:
        remedy = "the peer must renew it, and if it is a node, update() its manager"
    else:
        remedy = "the peer must show a newer certificate of that authority"
    return CertificateExpired(
        f"{_which(evidence, verdict)} has expired", hint=f"{when}{remedy}"
    )


def _is_ours(evidence: Evidence, verdict: Verdict) -> bool:
    """Whether the verdict speaks of an authority that this node itself trusts."""
    culprit = readable(verdict.culprit)
    if verdict.depth == 0 or culprit is None:
        return False
    if evidence.pool is not None and culprit in evidence.pool.certificates:
        return True
    # A chain consists of what the peer showed, and of what this node trusts.
    return verdict.culprit not in verdict.presented


def _not_yet(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    culprit = readable(verdict.culprit)
    when = "" if culprit is None else (
        f"it is valid from {day_and_distance(culprit.not_valid_before_utc)}: "
    )  # fmt: skip
    return CertificateExpired(
        f"{_which(evidence, verdict)} is not valid yet", hint=f"{when}check both clocks"
    )


def _unknown(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    message = (
        f"{evidence.whose} is not signed by an authority that this node trusts "
        f"({verdict.text})"
    )
    chain = evidence.presented()
    known = f"{evidence.our_pool} ({evidence.our_authorities})"
    remedy = "add that authority, or give the peer a certificate of one that is there"
    if not chain:
        hint = f"its authority is not in {known}: {remedy}, with the intermediates"
    elif verdict.code == SELF_SIGNED:
        hint = (
            f"it is self-signed ({subject_text(chain[0])}) and is not itself in "
            f"{known}: add it, or give the peer a certificate of one that is there"
        )
    else:
        hint = _intermediate(evidence, chain)
    if not hint:
        signer = issuer_text(chain[-1])
        mine = "server" if evidence.dialer else "client"
        hint = (
            f"{_namesake(evidence, chain[-1])}"
            f"the {mine} certificate is signed by {signer}, which is not in {known}: "
            f"{remedy}; if it is an intermediate, the peer's certificate file must "
            "hold it too"
        )
    return UnknownAuthority(message, hint=hint)


def _intermediate(evidence: Evidence, chain: tuple[x509.Certificate, ...]) -> str:
    """Say so if the pool holds an authority of the chain, but not what issued it."""
    from fastnode.certs.defects import issued, self_issued

    for authority in evidence.pool.certificates if evidence.pool is not None else ():
        if self_issued(authority):
            continue
        if authority in chain[1:] or (
            authority.subject == chain[-1].issuer and issued(chain[-1], authority)
        ):
            return (
                f"{evidence.our_pool} holds {subject_text(authority)}, which is an "
                f"intermediate authority, without {issuer_text(authority)}, which "
                "issued it: add that one too, or make the pool with "
                "partial_chains=True, which trusts an intermediate by itself"
            )
    return ""


def _namesake(evidence: Evidence, certificate: x509.Certificate) -> str:
    """Say what distinguishes an authority of the pool from that of a certificate."""
    from fastnode.certs.defects import defect_of, issued

    trusted = evidence.pool.certificates if evidence.pool is not None else ()
    named = [each for each in trusted if each.subject == certificate.issuer]
    for authority in named[:MOST_NAMES]:
        if not issued(certificate, authority):
            continue
        rule = defect_of(authority)
        if rule is not None:
            return (
                f"the one in {evidence.our_pool} {rule.broken} ({rule.remedy}), so it "
                "verifies nobody: "
            )
        return (
            f"the one in {evidence.our_pool} has signed it, but OpenSSL did not take "
            "it for the issuer: compare the key identifiers of the two, and the order "
            "in the peer's certificate file; otherwise, "
        )
    if named:
        return f"the one in {evidence.our_pool} has the same name, but another key: "
    return ""


def _wrong_usage(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    usage = "server" if evidence.dialer else "client"
    return HandshakeError(
        f"{_which(evidence, verdict)} is not meant for this side of a connection "
        f"({verdict.text})",
        hint=f"its extended key usage must allow {usage} authentication",
    )


def _mismatch(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    chain = evidence.presented()
    name, valid = evidence.server_name, ""
    if chain:
        names = names_text(chain[0]) or "no name at all"
        odd = address_as_dns(chain[0], name) if name is not None else ""
        valid = f"{odd}the certificate is valid for {names}, "
    return HostnameMismatch(
        f"the server's certificate does not cover the name {name!r} that was dialed "
        f"({verdict.text})",
        hint=f"{valid}you connected to {name}: set server_name or a SAN",
    )


def _revoked(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    culprit = readable(verdict.culprit)
    which = "" if culprit is None else f"serial {culprit.serial_number:x} of "
    issuer = "its issuer" if culprit is None else issuer_text(culprit)
    return CertificateRevoked(
        f"{_which(evidence, verdict)} has been revoked",
        hint=f"{which}{issuer} is in the CRL of {evidence.our_pool}: issue a new one",
    )


def _crl_expired(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    culprit = readable(verdict.culprit)
    issuer = "the issuer" if culprit is None else issuer_text(culprit)
    when = ""
    for crl in evidence.pool.crls if evidence.pool is not None else ():
        end = crl.next_update_utc
        if culprit is not None and crl.issuer == culprit.issuer and end is not None:
            when = f" (it was to be replaced on {day_and_distance(end)})"
    return RevocationListExpired(
        f"{evidence.whose} cannot be judged: the CRL of {issuer} is out of date "
        f"({verdict.text})",
        hint=f"give {evidence.our_pool} a current CRL of {issuer}{when}; or check "
        "this node's clock",
    )


def _crl_unfit(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    culprit = readable(verdict.culprit)
    issuer = "the issuer" if culprit is None else issuer_text(culprit)
    return HandshakeError(
        f"{evidence.whose} cannot be judged: the CRL of {issuer} cannot be used "
        f"({verdict.text})",
        hint=f"give {evidence.our_pool} a CRL that {issuer} signed, for all reasons",
    )


def _constrained(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    whose = _which(evidence, verdict)
    culprit = readable(verdict.culprit)
    if culprit is not None:
        violation = violation_of_sans(culprit, verdict.constrained_by)
        if violation is not None:
            return UnknownAuthority(
                f"{whose} holds a name that its authority may not certify: "
                f"{describe_violation(violation)}",
                hint=remedy_of(violation),
            )
    carriers = [c for c in map(readable, verdict.constrained_by) if c is not None]
    named = listed([subject_text(carrier) for carrier in carriers])
    of = f" of {named}" if named else ""
    return UnknownAuthority(
        f"{whose} violates the name constraints{of} ({verdict.text})",
        hint="compare its subject and SANs with the name constraints of its chain, and "
        "issue a certificate that they allow",
    )


def _strictly(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    from fastnode.certs.defects import rule_of

    hint = "chains are checked strictly (RFC 5280)"
    rule = rule_of(verdict.code)
    if rule is not None:
        whose = "it" if verdict.depth == 0 else "that certificate"
        hint = f"{whose} {rule.broken}: make it anew, with: {rule.remedy}; {hint}"
    return HandshakeError(
        f"{_which(evidence, verdict)} was refused: {verdict.text}", hint=hint
    )


def _too_costly(evidence: Evidence, verdict: Verdict) -> FastnodeError:
    return HandshakeError(
        f"{_which(evidence, verdict)} was refused before it was read, because reading "
        f"it would cost too much: {verdict.text}",
        hint=BURDENS[verdict.code].hint,
    )


#: By X509_V_ERR_* (openssl/x509_vfy.h).
_DESCRIPTIONS: Final[dict[int, Callable[[Evidence, Verdict], FastnodeError]]] = {
    **dict.fromkeys((2, 18, 19, 20, 21, 27), _unknown),
    9: _not_yet,
    10: _expired,
    **dict.fromkeys((11, 12), _crl_expired),
    **dict.fromkeys((3, 8, 33, 35, 36, 44, 54), _crl_unfit),
    23: _revoked,
    26: _wrong_usage,
    **dict.fromkeys((47, 48, 49, 51, 52, 53), _constrained),
    **dict.fromkeys((62, 64), _mismatch),
    **dict.fromkeys(BURDENS, _too_costly),
}
