"""Every error that fastnode raises, and the reasons that travel between peers.

An error answers four questions: which side refused or failed (``side``), why (the
message), what to do about it (``hint``) and who is concerned (``peer``).
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fastnode.peer import Peer

__all__ = [
    "CallTimeout",
    "CertificateError",
    "CertificateExpired",
    "CertificateLoadError",
    "CertificateRequired",
    "CertificateRevoked",
    "CloseReason",
    "ConfigError",
    "FastnodeError",
    "HandshakeError",
    "HandshakeTimeout",
    "HostnameMismatch",
    "LinkClosed",
    "LinkLost",
    "MessageTooLarge",
    "NoRoute",
    "NoSuchEndpoint",
    "NotAuthorized",
    "PeerNameMismatch",
    "ProtocolError",
    "RemoteError",
    "RevocationListExpired",
    "SendQueueFull",
    "SettingsFrozenError",
    "Side",
    "UnknownAuthority",
    "WorkerFailed",
    "refusal_from_wire",
]


class Side(Enum):
    """Which end of a link an error speaks of."""

    LOCAL = "local"  #: this node refused, or was at fault
    REMOTE = "remote"  #: the peer refused, or was at fault


class CloseReason(IntEnum):
    """Why a link ends, as the code in a GOODBYE frame (docs/wire-format.md).

    Codes below 16 end a link in order; the others refuse or abort it.
    """

    SHUTDOWN = 0  #: the node stops
    CLOSED = 1  #: ``Link.close()``
    DUPLICATE_LINK = 2  #: another link between the two nodes stays
    REPLACED = 3  #: a newer link took the place of this one

    PROTOCOL_ERROR = 16
    UNSUPPORTED_VERSION = 17
    PEER_NAME_MISMATCH = 18
    NOT_AUTHORIZED = 19
    CERTIFICATE_REQUIRED = 20
    UNKNOWN_AUTHORITY = 21
    CERTIFICATE_EXPIRED = 22
    HOSTNAME_MISMATCH = 23
    HANDSHAKE_TIMEOUT = 24
    TOO_MANY_LINKS = 25
    KEEPALIVE_TIMEOUT = 26
    INTERNAL_ERROR = 27
    REFUSED = 28  #: refused for a reason that has no code of its own
    CLOSE_TIMEOUT = 29  #: the time for an orderly end was over


class FastnodeError(Exception):
    """Base of all errors of fastnode.

    Attributes:
        message: what happened, without the hint.
        hint: what to do about it, or None.
        peer: the peer concerned, where known: a `Peer`, or its node name, or its
            address as text.
        side: the side that refused or failed, or None where there is only one.
    """

    #: What to do about errors of the class that give no hint of their own.
    usual_hint: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        peer: Peer | str | None = None,
        side: Side | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint
        self.peer = peer
        self.side = side

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(FastnodeError, ValueError):
    """An option or argument that cannot work; found before anything is opened."""


class SettingsFrozenError(ConfigError):
    """A trust setting was assigned after a node began to use its manager."""


class CertificateError(FastnodeError):
    """A certificate or pool that cannot be used."""


class CertificateLoadError(CertificateError):
    """Certificate, key or pool: unreadable, not PEM, not matching, out of order."""


class HandshakeError(FastnodeError, ConnectionError):
    """A connection that did not become a link; subclasses say why."""

    usual_hint = "the log of the other side says more"
    close_reason = CloseReason.REFUSED
    #: False where the connection just ended and nobody said why.
    told = True


class CertificateRequired(HandshakeError):
    """The dialer showed no certificate and the acceptor demands one."""

    close_reason = CloseReason.CERTIFICATE_REQUIRED


class UnknownAuthority(HandshakeError):
    """The certificate's chain does not end at a trusted authority."""

    close_reason = CloseReason.UNKNOWN_AUTHORITY


class CertificateExpired(HandshakeError):
    """A certificate in the chain is past its end, or before its beginning."""

    close_reason = CloseReason.CERTIFICATE_EXPIRED


class CertificateRevoked(HandshakeError):
    """A certificate in the chain is in a CRL of its issuer."""


class RevocationListExpired(HandshakeError):
    """A CRL is out of date, so nobody of its issuer can be judged.

    A fault of the side that refuses, not of the peer.
    """


class HostnameMismatch(HandshakeError):
    """No subject alternative name of the server covers the name it was dialed by."""

    close_reason = CloseReason.HOSTNAME_MISMATCH


class PeerNameMismatch(HandshakeError):
    """The peer used a node name that its certificate does not cover, or another
    name than the one that was dialed."""

    close_reason = CloseReason.PEER_NAME_MISMATCH


class NotAuthorized(HandshakeError):
    """The `authorize` callable refused the peer."""

    close_reason = CloseReason.NOT_AUTHORIZED


class HandshakeTimeout(HandshakeError, TimeoutError):
    """TLS and HELLO together took longer than `handshake_timeout`."""

    close_reason = CloseReason.HANDSHAKE_TIMEOUT


class LinkClosed(FastnodeError, ConnectionError):
    """The link was closed in order, by either side."""

    usual_hint = "connect again to go on"


class LinkLost(LinkClosed):
    """The link ended without a goodbye: reset, truncated, timed out, killed.

    What had been sent may have arrived or not.
    """

    usual_hint = "connect again to go on; the log of the other side may say why"


class ProtocolError(FastnodeError):
    """The peer sent what the wire format does not allow; its link has ended."""

    usual_hint = "the peer is faulty, hostile, or of an incompatible version"


class CallTimeout(FastnodeError, TimeoutError):
    """No reply came in time. The handler may have run."""

    usual_hint = "the handler may still have run; allow more time"


class RemoteError(FastnodeError):
    """The remote handler raised.

    Attributes:
        type_name: the name of the exception's class there.
        text: the text of the exception; never a traceback.
    """

    usual_hint = "the node that runs the handler knows more"

    def __init__(
        self, type_name: str, text: str, *, peer: Peer | str | None = None
    ) -> None:
        super().__init__(
            f"the remote handler raised {type_name}: {text}",
            peer=peer,
            side=Side.REMOTE,
        )
        self.type_name = type_name
        self.text = text


class NoSuchEndpoint(FastnodeError):
    """The peer has no handler for the endpoint that was called."""

    usual_hint = "register a handler for it there, or check the name"


class MessageTooLarge(FastnodeError):
    """A payload is larger than `max_message_size` of this node or of the peer."""

    usual_hint = "raise max_message_size on both nodes, or send it in parts"


class SendQueueFull(FastnodeError):
    """The link's queue is at its hard limit; nothing was queued."""


class NoRoute(FastnodeError, ConnectionError):
    """No address is known for a node, or none of those known could be reached."""

    usual_hint = "is it running, and is the route or the resolver right?"


class WorkerFailed(FastnodeError):
    """A worker process did not come up; its traceback, if there is one, is a note."""

    usual_hint = "the log and standard error of the worker say more"


class DuplicateLink(HandshakeError):
    """The peer keeps another link between the two nodes; never raised to users."""

    close_reason = CloseReason.DUPLICATE_LINK


class TooManyHandshakes(HandshakeError):
    """An acceptor dropped the connection to make room for another; the peer sees its
    connection end."""


class DialGivenUp(HandshakeError):
    """We dialed and want the link no more; never raised to users."""


def no_timeout(timeout: object) -> ConfigError:
    """For a timeout below 0, or none at all."""
    return ConfigError(
        f"timeout is {timeout!r}", hint="seconds, from 0; None waits without an end"
    )


def renewed(error: FastnodeError) -> FastnodeError:
    """A copy of an error, for each place that raises it: tracebacks are not shared.

    Only for classes whose constructor is `FastnodeError`'s.
    """
    copy = type(error)(error.message, hint=error.hint, peer=error.peer, side=error.side)
    copy.__cause__ = error.__cause__
    return copy


_HANDSHAKE_ERRORS: dict[int, type[HandshakeError]] = {
    cls.close_reason: cls
    for cls in (
        CertificateRequired,
        UnknownAuthority,
        CertificateExpired,
        HostnameMismatch,
        PeerNameMismatch,
        NotAuthorized,
        HandshakeTimeout,
        DuplicateLink,
    )
}


def refusal_from_wire(
    code: int, text: str, hint: str = "", *, peer: Peer | str | None = None
) -> HandshakeError | ProtocolError:
    """The error to raise for a GOODBYE that refused us before the link was up."""
    advice = hint or HandshakeError.usual_hint
    if code == CloseReason.PROTOCOL_ERROR:
        return ProtocolError(
            f"the peer found our frames malformed: {text}",
            peer=peer,
            side=Side.REMOTE,
            hint=advice,
        )
    cls = _HANDSHAKE_ERRORS.get(code, HandshakeError)
    refused = code >= CloseReason.PROTOCOL_ERROR
    error = cls(
        f"the peer {'refused' if refused else 'took back'} the link: {text}",
        peer=peer,
        side=Side.REMOTE,
        hint=advice,
    )
    with suppress(ValueError):  # codes of later versions
        error.close_reason = CloseReason(code)
    # In order: it stops, or only looked.
    error.told = refused
    return error
