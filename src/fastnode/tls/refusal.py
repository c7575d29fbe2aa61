"""What OpenSSL says, translated once, at the rim, into fastnode's errors."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from fastnode.errors import (
    CertificateExpired,
    CertificateRequired,
    FastnodeError,
    HandshakeError,
    HostnameMismatch,
    ProtocolError,
    Side,
    UnknownAuthority,
)

__all__ = ["local_refusal"]


class _Reason(NamedTuple):
    error: type[FastnodeError]
    cause: str
    hint: str


# X509_V_ERR_* (openssl/x509_vfy.h): our verdict on the peer's certificate.
_VERDICTS: Final = {
    9: _Reason(CertificateExpired, "is not valid yet", "check both clocks"),
    10: _Reason(CertificateExpired, "has expired", "the peer must renew it"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21, 27),
        _Reason(
            UnknownAuthority,
            "is not signed by an authority that this node trusts",
            "add its authority to {pool}, or give the peer a certificate of a trusted "
            "one, with the intermediates in its file",
        ),
    ),
    26: _Reason(
        HandshakeError,
        "is not meant for this side of a connection",
        "its extended key usage must allow {usage}",
    ),
    **dict.fromkeys(
        (62, 64),
        _Reason(
            HostnameMismatch,
            "does not cover the name {name!r} that was dialed",
            "set server_name, or add a SAN for it to the certificate",
        ),
    ),
}

# Alerts (RFC 8446, 6.2), as OpenSSL names them: the peer's verdict on ours.
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": _Reason(
        CertificateRequired,
        "the peer demands a certificate and was shown none",
        "give this node's cert manager a certificate",
    ),
    "UNKNOWN_CA": _Reason(
        UnknownAuthority,
        "the peer does not trust the authority of this node's certificate",
        "add that authority to the peer's {theirs}, or use a certificate that it signs",
    ),
    "CERTIFICATE_EXPIRED": _Reason(
        CertificateExpired,
        "the peer found this node's certificate expired, or not valid yet",
        "renew it, and check both clocks",
    ),
    "BAD_CERTIFICATE": _Reason(
        HandshakeError,
        "the peer refused this node's certificate",
        "its log says why; OpenSSL says this of one that is not valid yet (check both "
        "clocks) and of a name that no SAN of a server covers",
    ),
    "UNSUPPORTED_CERTIFICATE": _Reason(
        HandshakeError,
        "the peer found this node's certificate unfit for its purpose",
        "its extended key usage must allow client and server authentication",
    ),
    "CERTIFICATE_UNKNOWN": _Reason(
        HandshakeError,
        "the peer refused this node's certificate",
        "its log says why",
    ),
    "HANDSHAKE_FAILURE": _Reason(
        HandshakeError,
        "the peer found no acceptable parameters, or was shown no certificate",
        "compare TLS versions and ciphers; in TLS 1.2 a missing certificate looks "
        "like this too",
    ),
    "PROTOCOL_VERSION": _Reason(
        HandshakeError,
        "the peer speaks no version of TLS that this node allows",
        "TLS 1.3 is the default on both sides",
    ),
    "NO_APPLICATION_PROTOCOL": _Reason(
        HandshakeError,
        "the peer does not speak fastnode (ALPN)",
        "it is another service: check host and port",
    ),
    "INTERNAL_ERROR": _Reason(
        HandshakeError, "the peer had an internal error", "its log says why"
    ),
}

# Reasons of OpenSSL's own: what a stranger sent is no TLS, or not our kind.
_STRANGERS: Final = {
    "HTTP_REQUEST": "a plain HTTP request",
    "HTTPS_PROXY_REQUEST": "an HTTP proxy request",
    "WRONG_VERSION_NUMBER": "something that is not TLS",
    "UNEXPECTED_MESSAGE": "a TLS message out of turn",
    "BAD_RECORD_TYPE": "something that is not TLS",
    "RECORD_LAYER_FAILURE": "something that is not TLS",
    "PACKET_LENGTH_TOO_LONG": "something that is not TLS",
    "UNKNOWN_PROTOCOL": "something that is not TLS",
    "BAD_CHANGE_CIPHER_SPEC": "a TLS message out of turn",
    "EXCESSIVE_MESSAGE_SIZE": "a TLS message that is too large",
    "INVALID_ALERT": "something that is not TLS",
    "UNKNOWN_ALERT_TYPE": "something that is not TLS",
}

_NO_VERSION: Final = (
    "UNSUPPORTED_PROTOCOL",
    "VERSION_TOO_LOW",
    "NO_PROTOCOLS_AVAILABLE",
)


def local_refusal(
    error: ssl.SSLError, *, dialer: bool, peer: str | None, server_name: str | None
) -> FastnodeError:
    """The error of fastnode for one that TLS raised during a handshake.

    Args:
        dialer: whether this side is the client.
        peer: the best name known for the other side.
        server_name: the name that the server's certificate was verified against.
    """
    found = _translate(error, dialer=dialer, server_name=server_name)
    found.peer = peer
    found.__cause__ = error
    return found


def _translate(
    error: ssl.SSLError, *, dialer: bool, server_name: str | None
) -> FastnodeError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verdict(error, dialer=dialer, server_name=server_name)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return HandshakeError(
            "the peer closed the connection during the handshake",
            side=Side.REMOTE,
            hint="its log may say why; or something between the two cuts connections",
        )
    reason = _reason_of(error)
    if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return CertificateRequired(
            "the client showed no certificate",
            side=Side.LOCAL,
            hint="give the dialing node's cert manager a certificate",
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
        return _alert(name, dialer=dialer)
    if reason.startswith("TLSV1_"):  # alerts of RFC 6066, without the word
        return _alert(reason.removeprefix("TLSV1_"), dialer=dialer)
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


def _verdict(
    error: ssl.SSLCertVerificationError, *, dialer: bool, server_name: str | None
) -> FastnodeError:
    reason = _VERDICTS.get(error.verify_code)
    whose = "the server's certificate" if dialer else "the client's certificate"
    if reason is None:
        return HandshakeError(
            f"{whose} was refused: {error.verify_message}",
            side=Side.LOCAL,
            hint="chains are checked strictly (RFC 5280)",
        )
    pool = "root_cas" if dialer else "client_cas"
    usage = "server authentication" if dialer else "client authentication"
    return reason.error(
        f"{whose} {reason.cause.format(name=server_name)} ({error.verify_message})",
        side=Side.LOCAL,
        hint=reason.hint.format(pool=pool, usage=usage),
    )


def _alert(name: str, *, dialer: bool) -> FastnodeError:
    reason = _ALERTS.get(name)
    if reason is None:
        text = name.lower().replace("_", " ")
        return HandshakeError(
            f"the peer ended the handshake: {text}",
            side=Side.REMOTE,
            hint="its log may say why",
        )
    theirs = "client_cas" if dialer else "root_cas"
    return reason.error(
        f"the peer refused: {reason.cause}",
        side=Side.REMOTE,
        hint=reason.hint.format(theirs=theirs),
    )
