"""What OpenSSL says, translated once, at the rim, into fastnode's errors.

Every node imports this; cryptography is loaded where there is a certificate to read.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Final, NamedTuple

from fastnode.certs.context import ALPN_PROTOCOL
from fastnode.certs.expiry import day_and_distance
from fastnode.certs.name_constraints import violation_of_sans
from fastnode.errors import (
    CertificateExpired,
    CertificateRequired,
    CertificateRevoked,
    FastnodeError,
    HandshakeError,
    ProtocolError,
    Side,
    TooManyConnections,
    UnknownAuthority,
)
from fastnode.limits import MAX_CLIENT_CHAIN_BYTES, MAX_SERVER_CHAIN_BYTES
from fastnode.openssl.verdict import BURDENS, Verdict
from fastnode.tls.evidence import Evidence
from fastnode.tls.identity import (
    MOST_NAMES,
    describe_violation,
    names_text,
    remedy_of,
    subject_text,
)
from fastnode.tls.verdicts import explain

__all__ = ["local_refusal"]


class _Reason(NamedTuple):
    error: type[FastnodeError]
    cause: str
    hint: str


# Alerts (RFC 8446, 6.2), as OpenSSL names them: the peer's verdict on ours. In the
# hints stand what is known of our own certificate, see `_known`.
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": _Reason(
        CertificateRequired,
        "it demands a certificate and was shown none",
        "give this node's cert manager a certificate{from_theirs}",
    ),
    "UNKNOWN_CA": _Reason(
        UnknownAuthority,
        "it does not trust the authority of this node's certificate",
        "{constrained}{defect}{namesake}this node's certificate is signed by {issuer}, "
        "which is not in {their_pool}{theirs}: add that authority there, or use a "
        "certificate of one that is; if it is an intermediate, this node's certificate "
        "file must hold it too",
    ),
    "CERTIFICATE_EXPIRED": _Reason(
        CertificateExpired,
        "it found this node's certificate expired, or not valid yet",
        "{dates}",
    ),
    "CERTIFICATE_REVOKED": _Reason(
        CertificateRevoked,
        "this node's certificate has been revoked",
        "its serial {serial}, or that of an intermediate, is in a CRL of {their_pool}: "
        "get a new certificate",
    ),
    "BAD_CERTIFICATE": _Reason(
        HandshakeError,
        "it found something wrong with this node's certificate",
        "{defect}{wrong_host}",
    ),
    "UNSUPPORTED_CERTIFICATE": _Reason(
        HandshakeError,
        "it found this node's certificate unfit for its purpose",
        "its extended key usage must allow client authentication to dial, and server "
        "authentication to accept",
    ),
    "CERTIFICATE_UNKNOWN": _Reason(
        HandshakeError,
        "it did not take this node's certificate",
        "{defect}its log says why",
    ),
    "ILLEGAL_PARAMETER": _Reason(
        HandshakeError,
        "it found a message of this node too large, or not as TLS says",
        "{too_large}its log says why",
    ),
    "HANDSHAKE_FAILURE": _Reason(
        HandshakeError,
        "it found no acceptable parameters, or was shown no certificate",
        "compare TLS versions, ciphers and key-exchange groups (NetworkOptions.groups) "
        "of both sides; in TLS 1.2 a missing certificate looks like this too",
    ),
    "DECODE_ERROR": _Reason(
        HandshakeError,
        "it could not read a message of this node, or found its certificates too "
        "costly to read",
        "its log says why; certificates must have named curves, RSA keys of 8192 bits "
        "at most, and few intermediates (see Limits in docs/reliability.md)",
    ),
    "PROTOCOL_VERSION": _Reason(
        HandshakeError,
        "it speaks no version of TLS that this node allows",
        "TLS 1.3 is the default on both sides",
    ),
    "NO_APPLICATION_PROTOCOL": _Reason(
        HandshakeError,
        "it does not speak fastnode (ALPN)",
        "it is another service: check host and port",
    ),
    # What an acceptor writes that has no room for another handshake, see
    # fastnode.node.pending. OpenSSL's spelling.
    "USER_CANCELLED": _Reason(
        TooManyConnections,
        "too many connections wait there for their handshakes",
        f"try again in {TooManyConnections.retry_after:g} s; or raise max_pending, or "
        "the number of file descriptors, of the acceptor",
    ),
    "INTERNAL_ERROR": _Reason(
        HandshakeError, "it had an internal error", "its log says why"
    ),
}

_BROKEN: Final = "a TLS record that is broken, or something that is not TLS"

# Reasons of OpenSSL's own: what a stranger sent is no TLS, or not our kind.
_STRANGERS: Final = {
    "HTTP_REQUEST": "a plain HTTP request",
    "HTTPS_PROXY_REQUEST": "an HTTP proxy request",
    "WRONG_VERSION_NUMBER": "something that is not TLS",
    "UNEXPECTED_MESSAGE": "a TLS message out of turn",
    "BAD_RECORD_TYPE": "something that is not TLS",
    # OpenSSL from 3.2 on says the second for nearly every record that it cannot read.
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": _BROKEN,
    "RECORD_LAYER_FAILURE": _BROKEN,
    "PACKET_LENGTH_TOO_LONG": "something that is not TLS",
    "UNKNOWN_PROTOCOL": "something that is not TLS",
    "BAD_CHANGE_CIPHER_SPEC": "a TLS message out of turn",
    "EXCESSIVE_MESSAGE_SIZE": "a TLS message that is too large (its certificates may "
    f"have {MAX_CLIENT_CHAIN_BYTES} bytes)",
    "INVALID_ALERT": "something that is not TLS",
    "UNKNOWN_ALERT_TYPE": "something that is not TLS",
}

_NO_VERSION: Final = (
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
    "NO_PROTOCOLS_AVAILABLE",
)

_NO_GROUP: Final = _Reason(
    HandshakeError,
    "the peer offered no key-exchange group that this node allows",
    "both sides need a group in common: compare NetworkOptions.groups; finite-field "
    "groups (ffdhe) are never allowed",
)
# Reasons of OpenSSL's own for which this side refuses what the peer offered.
_REFUSED: Final = {
    "NO_APPLICATION_PROTOCOL": _Reason(
        HandshakeError,
        f"the peer offered only application protocols (ALPN) other than "
        f"{ALPN_PROTOCOL!r}",
        "it is not a fastnode peer: it is another service or client",
    ),
    "NO_SUITABLE_KEY_SHARE": _NO_GROUP,
    "NO_SUITABLE_GROUPS": _NO_GROUP,
    "NO_SHARED_GROUP": _NO_GROUP,
    # In TLS 1.2 OpenSSL says so of a missing group too.
    "NO_SHARED_CIPHER": _NO_GROUP._replace(
        cause="the peer offered no cipher or key-exchange group that this node allows"
    ),
}
# A key share of a group that was not offered, or a request for one (RFC 8446, 4.2.8).
_WRONG_GROUP: Final = ("BAD_KEY_SHARE", "WRONG_CURVE")


def local_refusal(error: ssl.SSLError, evidence: Evidence) -> FastnodeError:
    """The error of fastnode for one that TLS raised during a handshake."""
    found = _translate(error, evidence)
    found.peer = evidence.peer
    found.__cause__ = error
    return found


def _translate(error: ssl.SSLError, evidence: Evidence) -> FastnodeError:
    if evidence.verdict is not None and evidence.verdict.code in BURDENS:
        return explain(evidence, evidence.verdict)
    if isinstance(error, ssl.SSLCertVerificationError):
        verdict = evidence.verdict
        if verdict is None or not verdict.code:
            verdict = Verdict(error.verify_code, error.verify_message, 0, (), None, ())
        return explain(evidence, verdict)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        ended = HandshakeError(
            "the peer closed the connection during the handshake",
            side=Side.REMOTE,
            hint="try again; its log may say why, or it is overloaded, or something "
            "between the two cuts connections",
        )
        ended.told = False
        return ended
    reason = _reason_of(error)
    if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        whose = f", signed by {evidence.our_authorities}" if evidence.pool else ""
        return CertificateRequired(
            "the client showed no certificate",
            side=Side.LOCAL,
            hint=f"give the dialing node's cert manager a certificate{whose}",
        )
    for version in _NO_VERSION:
        if version in reason:
            return HandshakeError(
                "the peer offered no version of TLS that this node allows",
                side=Side.LOCAL,
                hint="TLS 1.3 is the default; minimum_version allows 1.2",
            )
    _, alert, name = reason.partition("_ALERT_")
    if alert:
        return _alert(name, evidence)
    if reason.startswith("TLSV1_"):  # alerts of RFC 6066, without the word
        return _alert(reason.removeprefix("TLSV1_"), evidence)
    return _of_parameters(reason, error)


def _of_parameters(reason: str, error: ssl.SSLError) -> FastnodeError:
    """The error for what the peer sent, offered or chose."""
    if reason in _REFUSED:
        refused = _REFUSED[reason]
        return refused.error(refused.cause, side=Side.LOCAL, hint=refused.hint)
    if reason in _WRONG_GROUP:
        return ProtocolError(
            "the peer chose a key-exchange group that this node did not offer, or sent "
            "a broken key share",
            side=Side.REMOTE,
            hint="it is no fastnode peer, or hostile: check host and port",
        )
    if reason in _STRANGERS:
        return ProtocolError(
            f"the peer sent {_STRANGERS[reason]}",
            side=Side.REMOTE,
            hint="it is another service or client: check host and port",
        )
    return HandshakeError(
        f"TLS failed: {reason or error}",
        side=Side.REMOTE,
        hint="the peer is no fastnode peer, or the connection is tampered with",
    )


def _reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's reason; from the text where Python's table lacks it (alert 120, no
    application protocol, has `reason` None up to Python 3.13)."""
    if error.reason:
        return error.reason
    text = str(error).partition("] ")[2].partition(" (_ssl")[0]
    return text.upper().replace(" ", "_")


def _alert(name: str, evidence: Evidence) -> FastnodeError:
    if (
        name == "HANDSHAKE_FAILURE"
        and evidence.dialer
        and evidence.shown is None
        and evidence.verdict is not None
    ):
        # TLS 1.2 has no alert of its own for a missing certificate (RFC 5246, 7.4.6).
        # The server has shown its own by now, so the parameters were acceptable.
        name = "CERTIFICATE_REQUIRED"
    reason = _ALERTS.get(name)
    if reason is None or (name == "USER_CANCELLED" and not evidence.dialer):
        text = name.lower().replace("_", " ")
        return HandshakeError(
            f"the peer ended the handshake: {text}",
            side=Side.REMOTE,
            hint="its log may say why",
        )
    return reason.error(
        f"the peer refused: {reason.cause}",
        side=Side.REMOTE,
        hint=reason.hint.format_map(_known(evidence)),
    )


def _known(evidence: Evidence) -> dict[str, str]:
    """What this side knows of its own certificate, for hints."""
    shown, theirs = evidence.shown, evidence.their_authorities
    return {
        "their_pool": evidence.their_pool,
        "theirs": f" ({theirs})" if theirs else "",
        "namesake": _namesake(evidence),
        "defect": _defect(evidence),
        "too_large": _too_large(evidence),
        "constrained": _constrained(evidence),
        "from_theirs": f", signed by {theirs}" if theirs else "",
        "issuer": shown.issuer if shown is not None else "an authority",
        "serial": f"{shown.serial_number:x}" if shown is not None else "number",
        "dates": _dates(evidence),
        "wrong_host": "its log says why"
        if evidence.dialer
        else "the dialer probably dialed a host that this certificate does not name; "
        f"it names {(shown and names_text(shown.x509)) or 'nothing'}",
    }


def _namesake(evidence: Evidence) -> str:
    """What can be told of an authority that the peer names, and that is in our chain.

    Only its name is known: the certificates in the pool of the peer cannot be seen.
    """
    from fastnode.certs.defects import self_issued

    shown = evidence.shown
    named = evidence.verdict.authorities if evidence.verdict is not None else ()
    names = {authority.der for authority in named}
    if shown is None or not names:
        return ""
    for certificate in shown.chain[1:]:
        if not self_issued(certificate) and certificate.subject.public_bytes() in names:
            return (
                f"{evidence.their_pool} names {subject_text(certificate)}, which is "
                "an intermediate authority: it must hold the root too, or be made with "
                "partial_chains=True; otherwise, "
            )
    if shown.chain[-1].issuer.public_bytes() in names:
        return (
            f"the one in {evidence.their_pool} has the same name, so it has another "
            "key, or it is an intermediate authority and its own issuer is not there "
            "(partial_chains=True trusts it by itself): "
        )
    return ""


def _defect(evidence: Evidence) -> str:
    """What strict checking refuses in the authorities of our own certificate."""
    from fastnode.certs.defects import defect_of, issued

    shown = evidence.shown
    if shown is None:
        return ""
    last = shown.chain[-1]
    known = evidence.pool.certificates if evidence.pool is not None else ()
    roots = [each for each in known if each.subject == last.issuer][:MOST_NAMES]
    above = [*shown.chain[1:], *(root for root in roots if issued(last, root))]
    for authority in above:
        rule = defect_of(authority)
        if rule is not None:
            return (
                f"{subject_text(authority)}, an authority of this node's certificate, "
                f"{rule.broken}, and chains are checked strictly: make its certificate "
                f"anew, with: {rule.remedy}; otherwise, "
            )
    return ""


def _too_large(evidence: Evidence) -> str:
    """Say so if our own chain is larger than what fastnode peers read."""
    shown = evidence.shown
    size = 0 if shown is None else shown.size
    most = MAX_CLIENT_CHAIN_BYTES if evidence.dialer else MAX_SERVER_CHAIN_BYTES
    if size <= most:
        return ""
    return (
        f"the certificates that this node shows have {size} bytes, and its peers read "
        f"{most} at most: use fewer names, or fewer intermediates; otherwise, "
    )


def _constrained(evidence: Evidence) -> str:
    """What the name constraints in our own chain forbid in our certificate."""
    shown = evidence.shown
    if shown is None:
        return ""
    violation = violation_of_sans(shown.x509, shown.issuers)
    if violation is None:
        return ""
    return f"{describe_violation(violation)}: {remedy_of(violation)}; otherwise, "


def _dates(evidence: Evidence) -> str:
    shown = evidence.shown
    if shown is None:
        return "check both clocks"
    now = datetime.now(UTC)
    end = day_and_distance(shown.not_valid_after, now)
    if shown.not_valid_after <= now:
        return f"it expired on {end}: renew it, and update() this node's manager"
    if shown.not_valid_before > now:
        begin = day_and_distance(shown.not_valid_before, now)
        return f"it is valid from {begin}: check both clocks"
    return (
        f"by this node's clock it expires on {end}: check both clocks, the other "
        f"certificates of its chain, and the authorities in {evidence.their_pool}"
    )
