"""The feature EXTENSIONS of a link: extension blocks, and the kinds 18 to 21.

docs/wire-format.md, "Extension blocks" and kinds 18 to 21, has the layout. A peer of
an older version does not announce the feature. Then frames have no blocks, and neither
side sends or takes these kinds.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING

from fastnode.dispatch.dispatcher cimport Dispatcher
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport DROPPED, LEAVING, PAUSE, RESUME, get32

import logging
from dataclasses import replace
from struct import Struct

from fastnode.errors import ProtocolError, Side
from fastnode.limits import CLOSE_TIMEOUT_SECONDS, LEAST_EXTENDED_FRAME_BYTES
from fastnode.wire.kinds import COUNT_BYTES

# The body of LEAVING, and the longest time that it can name: 49 days.
cdef object GRACE = Struct(">I")
cdef object MOST_GRACE = 0xFFFFFFFF


@cython.final
cdef class Extensions:
    """The use of the feature on one link."""

    def __init__(
        self,
        protocol,
        Decoder decoder not None,
        Outbox outbox not None,
        Dispatcher dispatcher not None,
    ):
        self.protocol = protocol
        self.decoder = decoder
        self.outbox = outbox
        self.dispatcher = dispatcher
        self.dropped = 0
        self.close_seconds = CLOSE_TIMEOUT_SECONDS

    def introduce(self, hello):
        """Return `hello` with the feature."""
        return replace(hello, extensions=b"")

    def agree(self, hello, peer_hello):
        """Use the feature if both sides have announced it in their HELLOs."""
        self.agreed = (
            hello.extensions is not None
            and peer_hello.extensions is not None
            and min(hello.max_frame, peer_hello.max_frame) >= LEAST_EXTENDED_FRAME_BYTES
        )
        self.decoder.extensions = self.agreed
        self.outbox.extensions = self.agreed
        if self.agreed:
            self.dispatcher.report_drops()
            self.dispatcher.pause_endpoints()

    cdef int on_frame(self, int kind, bytes body) except -1:
        """Handle PAUSE, RESUME, DROPPED or LEAVING."""
        if not self.agreed:
            raise ProtocolError(
                f"the peer sent a frame of kind {kind}, which not both sides announced",
                side=Side.REMOTE,
            )
        if kind == DROPPED:
            self.peer_dropped(
                get32(<const unsigned char *>PyBytes_AS_STRING(body)),
                endpoint_name(body[COUNT_BYTES:]),
            )
        elif kind == LEAVING:
            self.peer_leaves()
        elif kind == PAUSE or kind == RESUME:
            name = endpoint_name(body)
            if kind == PAUSE:
                self.outbox.pause(name)
            else:
                self.outbox.resume(name)
        return 0

    def peer_dropped(self, count, name):
        """Count messages that the peer dropped, because it has no such endpoint."""
        self.dropped += count
        self.dispatcher.registry.limited.say(
            logging.WARNING,
            "the peer has no such endpoint",
            "%s dropped %d messages of this node to %r: it has no such endpoint",
            self.protocol.peer_text(),
            count,
            name,
            event="messages_dropped_by_peer",
            peer=self.protocol.peer,
            link=self.protocol.number,
            endpoint=name,
            messages=count,
        )

    # --- leaving ------------------------------------------------------------------

    def announce(self, double grace, double timeout):
        """Tell the peer that this node stops, so that it stops using this link.

        Args:
            grace: seconds that this node continues to serve.
            timeout: seconds that the orderly end may take when the peer closes the
                link. This end counts as an end by this node.

        Returns:
            True if the peer was told; False if the peer does not know the frame.
        """
        if not self.agreed or self.announced:
            return False
        self.announced = True
        self.close_seconds = timeout
        self.outbox.frame(
            LEAVING, 0, GRACE.pack(min(int(max(grace, 0.0) * 1000), MOST_GRACE))
        )
        return True

    def peer_leaves(self):
        """Note that the peer stops. A second announcement changes nothing."""
        if self.leaving:
            return
        self.leaving = True
        if self.on_leaving is not None:
            self.on_leaving(self.protocol)
        self.protocol.turn_away()

    cdef int let_go(self) except -1:
        """Drop the reference back to the link."""
        self.protocol = self.on_leaving = None
        return 0


cdef str endpoint_name(bytes name):
    """Return the name of an endpoint that a peer sent.

    Raises:
        ProtocolError: it is not UTF-8.
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ProtocolError(
            "the peer sent an endpoint's name that is not UTF-8", side=Side.REMOTE
        ) from None
