"""The errors with which links end, or with which they fail to come up."""

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
    """Return the error for a link that was up and is lost."""
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
    """Return the error for an orderly end that was cut while frames were queued."""
    return lost(
        f"{queued} queued bytes were not sent before it was cut off",
        peer,
        hint="allow more time to close, or see why the receiver is slow",
    )


def closed_here(peer: Peer, reason: CloseReason = CloseReason.CLOSED) -> LinkClosed:
    """Return the error for a link that this node closed."""
    stops = reason is CloseReason.SHUTDOWN
    return LinkClosed(
        f"the link with {peer.name} was closed" + (": this node stops" * stops),
        peer=peer,
        side=Side.LOCAL,
        hint="start a new node" if stops else None,
    )


def replaced(peer: Peer) -> LinkClosed:
    """Return the error for a link that a newer link replaced in order."""
    return LinkClosed(
        f"the link with {peer.name} was replaced by a newer one",
        peer=peer,
        side=Side.LOCAL,
        hint="connect again: that gives the newer one",
    )


def closed_there(peer: Peer, text: str) -> LinkClosed:
    """Return the error for a link that the peer closed."""
    because = f": {text}" if text else ""
    return LinkClosed(
        f"{peer.name} closed the link{because}", peer=peer, side=Side.REMOTE
    )


def introduced_itself_too_long(peer: str) -> ProtocolError:
    """Return the error for a peer that sent too many bytes before it was admitted."""
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
    """Return the error for a connection that ended during the handshake.

    The peer gave no reason.
    """
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
    """Return the error for a handshake whose deadline is over."""
    return HandshakeTimeout(
        f"the handshake was not complete within {seconds:g} s",
        peer=peer,
        side=Side.REMOTE,
        hint="the peer is slow, overloaded, or not a fastnode peer",
    )


def judged_too_slowly(peer: str, seconds: float) -> HandshakeTimeout:
    """Return the error for a handshake that this node did not finish in time."""
    return HandshakeTimeout(
        f"the handshake was not complete within {seconds:g} s: this side had not "
        f"judged the peer",
        peer=peer,
        side=Side.LOCAL,
        hint="see what the authorize hook waits for",
    )


def given_up(peer: str) -> HandshakeError:
    """Return the error for a handshake during which this node closes."""
    error = HandshakeError("the node is closing", peer=peer, side=Side.LOCAL)
    error.close_reason = CloseReason.SHUTDOWN
    return error


def no_verdict(peer: str, cause: BaseException) -> HandshakeError:
    """Return the error for a failed check of the peer, which is our fault."""
    error = HandshakeError(
        f"internal error while judging the peer: {type(cause).__name__}",
        peer=peer,
        side=Side.LOCAL,
    )
    error.close_reason = CloseReason.INTERNAL_ERROR
    return error


def no_version(ours: Hello, theirs: Hello) -> HandshakeError:
    """Return the error for a peer with which we share no protocol version."""
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
    """Return the error for a peer that chose or offered none of our ALPN protocols."""
    found = "agreed on none" if agreed is None else f"agreed on {agreed!r}"
    return HandshakeError(
        f"the peer {found}, not on the application protocol {wanted!r} (ALPN)",
        peer=peer,
        side=Side.LOCAL,
        hint="it is not a fastnode peer: check host and port",
    )
