"""The errors with which links end, or never come up: what everybody is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastnode.errors import (
    CloseReason,
    HandshakeError,
    HandshakeTimeout,
    LinkClosed,
    LinkLost,
    ProtocolError,
    Side,
)
from fastnode.limits import MAX_INTRODUCTION_BYTES

if TYPE_CHECKING:
    from fastnode.peer import Peer
    from fastnode.wire.hello import Hello


def lost(
    text: str,
    peer: Peer,
    cause: BaseException | None = None,
    side: Side = Side.REMOTE,
    hint: str | None = None,
) -> LinkLost:
    """A link that was up is lost."""
    because = f" ({cause})" if cause else ""
    error = LinkLost(
        f"the link with {peer.name} was lost: {text}{because}",
        peer=peer,
        side=side,
        hint=hint,
    )
    error.__cause__ = cause
    return error


def cut_off(peer: Peer, queued: int) -> LinkLost:
    """The orderly end was cut off before everything had left."""
    return lost(
        f"{queued} queued bytes were not sent before it was cut off",
        peer,
        hint="allow more time to close, or see why the receiver is slow",
    )


def closed_here(peer: Peer, reason: CloseReason = CloseReason.CLOSED) -> LinkClosed:
    """We closed the link."""
    stops = reason is CloseReason.SHUTDOWN
    return LinkClosed(
        f"the link with {peer.name} was closed" + (": this node stops" * stops),
        peer=peer,
        side=Side.LOCAL,
        hint="start a new node" if stops else None,
    )


def replaced(peer: Peer) -> LinkClosed:
    """A newer link took over in order."""
    return LinkClosed(
        f"the link with {peer.name} was replaced by a newer one",
        peer=peer,
        side=Side.LOCAL,
        hint="connect again: that gives the newer one",
    )


def closed_there(peer: Peer, text: str) -> LinkClosed:
    """The peer closed the link."""
    because = f": {text}" if text else ""
    return LinkClosed(
        f"{peer.name} closed the link{because}", peer=peer, side=Side.REMOTE
    )


def introduced_itself_too_long(peer: str) -> ProtocolError:
    """A peer that completed TLS sent more than a HELLO needs before it was admitted."""
    return ProtocolError(
        f"{peer} sent more than {MAX_INTRODUCTION_BYTES} bytes between the end of its "
        "TLS handshake and its admission",
        peer=peer,
        side=Side.REMOTE,
        hint="it is no fastnode peer, or hostile: see who it is",
    )


def hello_too_large(most: int) -> ProtocolError:
    """Return the error for a dialer whose ClientHello is too large."""
    return ProtocolError(
        f"the peer announced a ClientHello of more than {most} bytes",
        side=Side.REMOTE,
        hint="it is no fastnode peer, or it sends many key shares: offer fewer groups",
    )


def cut_short(peer: str, cause: BaseException | None = None) -> HandshakeError:
    """The connection ended during the handshake, without a word."""
    because = f": {cause}" if cause else ""
    error = HandshakeError(
        f"the connection ended before the handshake was complete{because}",
        peer=peer,
        side=Side.REMOTE,
        hint="see the log of the other side",
    )
    error.told = False
    return error


def too_slow(peer: str, seconds: float) -> HandshakeTimeout:
    """The handshake's deadline has passed."""
    return HandshakeTimeout(
        f"the handshake was not complete within {seconds:g} s",
        peer=peer,
        side=Side.REMOTE,
        hint="the peer is slow, overloaded, or not a fastnode peer",
    )


def judged_too_slowly(peer: str, seconds: float) -> HandshakeTimeout:
    """The handshake's deadline has passed, and it was not for the peer to go on."""
    return HandshakeTimeout(
        f"the handshake was not complete within {seconds:g} s: this side had not "
        f"judged the peer",
        peer=peer,
        side=Side.LOCAL,
        hint="see what the authorize hook waits for",
    )


def given_up(peer: str) -> HandshakeError:
    """This node closes while the handshake is under way."""
    error = HandshakeError("the node is closing", peer=peer, side=Side.LOCAL)
    error.close_reason = CloseReason.SHUTDOWN
    return error


def no_verdict(peer: str, cause: BaseException) -> HandshakeError:
    """Judging the peer failed, which is our fault."""
    error = HandshakeError(
        f"internal error while judging the peer: {type(cause).__name__}",
        peer=peer,
        side=Side.LOCAL,
    )
    error.close_reason = CloseReason.INTERNAL_ERROR
    return error


def no_version(ours: Hello, theirs: Hello) -> HandshakeError:
    """The two sides speak no version of the protocol in common."""
    error = HandshakeError(
        f"protocol versions {theirs.oldest} to {theirs.newest} and {ours.oldest} to "
        f"{ours.newest} have none in common",
        peer=str(theirs.name),
        side=Side.LOCAL,
        hint="upgrade the older node",
    )
    error.close_reason = CloseReason.UNSUPPORTED_VERSION
    return error


def no_alpn(peer: str, wanted: str | None, agreed: str | None) -> HandshakeError:
    """Return the error for a peer that chose, or offered, no protocol of ours."""
    found = "agreed on none" if agreed is None else f"agreed on {agreed!r}"
    return HandshakeError(
        f"the peer {found}, not on the application protocol {wanted!r} (ALPN)",
        peer=peer,
        side=Side.LOCAL,
        hint="it is not a fastnode peer: check host and port",
    )
