"""Succession: a newer link replaces a link. No message is lost, doubled or reordered.

Theory of operation. The side that dialed the old link dials the new one. Its HELLO
shows the ticket of the old link, which only the two ends of that link know. The
acceptor says in its own HELLO that it agrees. When the new link is up, each side does
two things:

- It moves. New messages travel on the new link. When all lanes of the old link except
  control are empty, the side sends MOVED there as the last frame of these lanes. The
  old link is RETIRING from then on.
- It holds the messages and calls of the new link until MOVED has come on the old link
  and everything before it has been handled, or until the old link has ended. The
  delivery queue holds them, and nothing is granted for them. So the window bounds them.

This keeps the order, because held messages were sent after all messages of the old
link. A handler that waits for a call of its own does not wait longer than on a single
link, because an old lane and its new lane work as one lane. Calls of the inner lane
have no order, so they are not held. Replies, errors, credits, pings and cancellations
belong to their own link and are never held.

The old link ends with GOODBYE in each direction. A side ends it when it has sent and
received MOVED, its handlers have finished, their replies have left, and its own calls
have been answered. So all work of the old link is finished there. If the old link
breaks before, it is a lost link like any other, and the new link stops holding. While a
newer link holds, the keepalive checks the old link more often. Otherwise a dead old
link would hold up the traffic for as long as an idle link may be silent.
"""

cimport cython
from fastnode.link.calls cimport CallTable
from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.frame cimport MOVED, RECONNECT, STAY

import os
from dataclasses import replace

from fastnode.errors import CloseReason, ProtocolError, Side, refusal_from_wire, renewed
from fastnode.limits import KEEPALIVE_MISSES
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye
from fastnode.wire.hello import TICKET_BYTES
from fastnode.wire.kinds import mask

# Bit masks of the kinds that only a dialer takes, or only an acceptor.
cdef unsigned int FOR_DIALER = mask(lambda kind: kind.taken_by == "dialer")
cdef unsigned int FOR_ACCEPTOR = mask(lambda kind: kind.taken_by == "acceptor")


@cython.final
cdef class Succession:
    """The part of one link in the succession of links with a peer."""

    def __init__(
        self,
        protocol,
        Outbox outbox not None,
        Dispatcher dispatcher not None,
        CallTable calls not None,
    ):
        self.protocol = protocol
        self.loop = protocol.loop
        self.outbox = outbox
        self.dispatcher = dispatcher
        self.calls = calls
        dispatcher.on_through = self.reached

    def introduce(self, hello, bint dialer):
        """Return `hello` with the features of this link."""
        return replace(
            hello,
            ticket=b"" if dialer else os.urandom(TICKET_BYTES),
            succeeds=(
                None if self.predecessor is None else self.predecessor.succession.ticket
            ),
        )

    def agree(self, hello, peer_hello):
        """Find out from both HELLOs whether this link can be handed over."""
        dialer, acceptor = hello.ticket, peer_hello.ticket
        if not self.protocol.dialer:
            dialer, acceptor = acceptor, dialer
        self.agreed = dialer is not None and bool(acceptor)
        self.ticket = acceptor if self.agreed else None

    @property
    def claimed(self):
        """The ticket of an older link that the peer's HELLO shows, or None.

        A dialer shows the ticket of the link that it wants to replace. An acceptor that
        agrees shows the same ticket.
        """
        hello = None if self.protocol is None else self.protocol.peer_hello
        return None if hello is None else hello.succeeds

    # --- asking ---------------------------------------------------------------

    def ask(self):
        """Ask the peer, which dialed this link, for a successor.

        Returns:
            A future of the successor's protocol. It is done when the successor is up.
        """
        if self.asked is None:
            self.asked = self.loop.create_future()
            self.outbox.frame(RECONNECT, 0, b"")
        return self.asked

    def stay(self, error):
        """Tell the peer, which asked for a successor, why there is none."""
        code = getattr(error, "close_reason", CloseReason.REFUSED)
        if code < CloseReason.PROTOCOL_ERROR:
            code = CloseReason.REFUSED
        hint = getattr(error, "hint", None) or ""
        self.outbox.frame(
            STAY, 0, encode_goodbye(code, getattr(error, "message", str(error)), hint)
        )

    cdef int on_frame(self, int kind, bytes body) except -1:
        """Handle MOVED, RECONNECT or STAY."""
        if not self.agreed:
            raise ProtocolError(
                f"the peer sent a frame of kind {kind}, which not both sides announced",
                side=Side.REMOTE,
            )
        if (FOR_ACCEPTOR if self.protocol.dialer else FOR_DIALER) >> kind & 1:
            raise ProtocolError(
                f"the peer sent a frame of kind {kind}, which is for the other side",
                side=Side.REMOTE,
            )
        if kind == MOVED:
            self.moved = True
            return self.dispatcher.moved()
        if kind == RECONNECT:
            if self.on_asked is not None:
                self.on_asked(self.protocol)
            return 0
        code, text, hint = decode_goodbye(body)
        self.answer(
            refusal_from_wire(code, text, hint, peer=self.protocol.peer), None
        )
        return 0

    def answer(self, error, successor):
        """Give the successor, or the error, to the code that asked for a successor."""
        asked = self.asked
        self.asked = None
        if asked is None or asked.done():
            return
        if error is None:
            asked.set_result(successor)
        else:
            asked.set_exception(error)
            # Perhaps no code waits for the future any more. Reading the exception keeps
            # the loop from complaining.
            asked.exception()

    # --- moving and holding -----------------------------------------------------

    cdef int succeed(self, object successor) except -1:
        """Let `successor`, which is up, hold its messages unless all have come here."""
        self.successor = successor
        if not self.dispatcher.through:
            (<Succession>successor.succession).hold_deliveries()
            self.protocol.probe_sooner(True)
        self.answer(None, successor)
        return 0

    def hold_deliveries(self):
        """Hold received messages and calls."""
        self.held = self.loop.create_future()
        self.dispatcher.hold_deliveries()

    def release(self):
        """Handle the held messages, because the link before this one is done."""
        if self.held is None:
            return
        self.held.set_result(None)
        self.held = None
        self.dispatcher.release()

    def reached(self):
        """Release the next link: all messages before the peer's MOVED are handled."""
        if self.successor is not None:
            self.loop.call_soon(self.successor.succession.release)
        self.protocol.probe_sooner(False)
        self.protocol.drained()

    # --- the end ----------------------------------------------------------------

    cdef bint finished(self) noexcept:
        """Return whether neither side has unfinished work on this link."""
        return (self.dispatcher.through or self.bereaved) and self.finished_here()

    cdef bint finished_here(self) noexcept:
        """Return whether this side has no unfinished work on this link."""
        return (
            not self.dispatcher.busy()
            and self.outbox.size() == 0
            and not self.calls.waiting
        )

    def patience(self):
        """Return the seconds that the orderly end may take when our work is done.

        The peer may still work. But it counts as dead if it is silent for as long as
        the keepalive waits.
        """
        return self.protocol.settings.keepalive_interval * (KEEPALIVE_MISSES + 1)

    def retire(self):
        """End the link in order."""
        self.protocol.begin_close(CloseReason.REPLACED, self.patience())

    def outstanding(self):
        """Return a text that says why a replaced link has not ended yet."""
        found = []
        if self.outbox.size():
            found.append(f"{self.outbox.size()} bytes are queued")
        if not self.dispatcher.through:
            found.append("not all that the peer had queued has been handled")
        if self.calls.waiting:
            found.append(f"{len(self.calls.waiting)} calls wait for their replies")
        if self.dispatcher.running:
            found.append(f"{self.dispatcher.running} handlers run")
        return ", ".join(found) or "the peer has not finished"

    cdef int link_ended(self, object error) except -1:
        """Release the other links, because this link has ended."""
        successor, predecessor = self.successor, self.predecessor
        protocol = self.protocol
        self.successor = self.predecessor = self.protocol = self.on_asked = None
        if self.asked is not None:
            self.answer(renewed(error), None)
        if self.held is not None:
            self.held.set_result(None)
            self.held = None
        if successor is not None:
            # The link that has ended is removed from the chain of links.
            successor.succession.predecessor = predecessor
            self.loop.call_soon(successor.succession.release)
        if predecessor is not None and predecessor.succession.successor is protocol:
            predecessor.succession.bereave()
        return 0

    def bereave(self):
        """Handle the end of the successor, which ended before this link."""
        self.successor = None
        if not self.dispatcher.through and self.protocol.dialer:
            # The acceptor may never have seen the successor come up. Then it would
            # continue to use this link.
            self.bereaved = True
            self.protocol.drained()
