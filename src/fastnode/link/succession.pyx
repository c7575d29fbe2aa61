"""How a newer link takes the place of one, and nothing is lost, doubled or overtaken.

Theory of operation. Whoever dialed the old link dials the new one. Its HELLO shows the
ticket of the old link, which only the two ends of that link know; the acceptor says in
its own HELLO that it agrees. When the new link is up, each side by itself

- moves: MOVED is its last frame on the old link in all lanes but control, sent when
  they are empty. What is sent from now on travels on the new one. The old link is
  RETIRING;
- holds the messages and calls of the new link until MOVED has come on the old one and
  everything before it has been handled, or until the old link has ended. They are
  held in the delivery queue and nothing is granted for them: the window bounds them.

That is all it takes for the order, since what is held came after what is awaited. A
handler that waits for a call of its own waits for no more than on a single link: an
old lane and the new one after it are as one. Calls of the inner lane, which are in
order with nothing, are not held. Replies, errors, credits, pings and cancellations
belong to their own link and are never held.

The old link ends, by a goodbye in each direction, when a side has sent and received
MOVED, its handlers have finished and their replies have left, and its own calls have
been answered. So what was begun there is finished there. If it breaks before, that is
a lost link like any other, and the new one is released. While a newer link holds for
its sake, the keepalive looks at it more often, so that one that is dead without a word
does not hold up the traffic for as long as an idle link may be silent.
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
        """`hello` as this link says it."""
        return replace(
            hello,
            ticket=b"" if dialer else os.urandom(TICKET_BYTES),
            succeeds=(
                None if self.predecessor is None else self.predecessor.succession.ticket
            ),
        )

    def agree(self, hello, peer_hello):
        """Both HELLOs are known: can this link be handed over?"""
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
        """Ask the peer, who dialed this link, for a successor.

        Returns:
            A future: the protocol of the successor, once it is up.
        """
        if self.asked is None:
            self.asked = self.loop.create_future()
            self.outbox.frame(RECONNECT, 0, b"")
        return self.asked

    def stay(self, error):
        """Tell the peer, who asked for one, why there is no successor."""
        code = getattr(error, "close_reason", CloseReason.REFUSED)
        if code < CloseReason.PROTOCOL_ERROR:
            code = CloseReason.REFUSED
        hint = getattr(error, "hint", None) or ""
        self.outbox.frame(
            STAY, 0, encode_goodbye(code, getattr(error, "message", str(error)), hint)
        )

    cdef int on_frame(self, int kind, bytes body) except -1:
        """MOVED, RECONNECT or STAY."""
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
        """Whoever asked for a successor has it, or learns why there is none."""
        asked = self.asked
        self.asked = None
        if asked is None or asked.done():
            return
        if error is None:
            asked.set_result(successor)
        else:
            asked.set_exception(error)
            # Perhaps nobody waits any more.
            asked.exception()

    # --- moving and holding -----------------------------------------------------

    cdef int succeed(self, object successor) except -1:
        """`successor` is up: it holds what it receives, unless all has come here."""
        self.successor = successor
        if not self.dispatcher.through:
            (<Succession>successor.succession).hold_deliveries()
            self.protocol.probe_sooner(True)
        self.answer(None, successor)
        return 0

    def hold_deliveries(self):
        """Hold what is received."""
        self.held = self.loop.create_future()
        self.dispatcher.hold_deliveries()

    def release(self):
        """The link before this one is through: handle what was held."""
        if self.held is None:
            return
        self.held.set_result(None)
        self.held = None
        self.dispatcher.release()

    def reached(self):
        """All that the peer sent on this link, up to its MOVED, has been handled."""
        if self.successor is not None:
            self.loop.call_soon(self.successor.succession.release)
        self.protocol.probe_sooner(False)
        self.protocol.drained()

    # --- the end ----------------------------------------------------------------

    cdef bint finished(self) noexcept:
        """Nothing that was begun on this link is outstanding."""
        return (self.dispatcher.through or self.bereaved) and self.finished_here()

    cdef bint finished_here(self) noexcept:
        """Nothing of this side is outstanding, and all that has come is handled."""
        return (
            not self.dispatcher.busy()
            and self.outbox.size() == 0
            and not self.calls.waiting
        )

    def patience(self):
        """How long the orderly end may take, seconds, where nothing of this side is
        outstanding. Whatever the peer may still have to do, it is dead if nothing is
        heard of it for as long as the keepalive waits."""
        return self.protocol.settings.keepalive_interval * (KEEPALIVE_MISSES + 1)

    def retire(self):
        """End the link in order."""
        self.protocol.begin_close(CloseReason.REPLACED, self.patience())

    def outstanding(self):
        """What keeps a link that was replaced from its end, in words."""
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
        """The link has ended, in whatever way."""
        successor, predecessor = self.successor, self.predecessor
        protocol = self.protocol
        self.successor = self.predecessor = self.protocol = self.on_asked = None
        if self.asked is not None:
            self.answer(renewed(error), None)
        if self.held is not None:
            self.held.set_result(None)
            self.held = None
        if successor is not None:
            # Of links that have ended, none stays between those that have not.
            successor.succession.predecessor = predecessor
            self.loop.call_soon(successor.succession.release)
        if predecessor is not None and predecessor.succession.successor is protocol:
            predecessor.succession.bereave()
        return 0

    def bereave(self):
        """The successor has ended first."""
        self.successor = None
        if not self.dispatcher.through and self.protocol.dialer:
            # The acceptor may never have seen it come up, and would go on here.
            self.bereaved = True
            self.protocol.drained()
