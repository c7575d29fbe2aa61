"""The feature EXTENSIONS of a link: extension blocks, and the frames of that version.

docs/wire-format.md, "Extension blocks" and kinds 18 to 21, has the layout. A peer of
an older version does not announce the feature. Then frames have no blocks, and neither
side sends or takes the kinds.
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
    """What one link makes of the feature."""

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
        """Both HELLOs are known: use the feature if both sides have announced it."""
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
        """PAUSE, RESUME, DROPPED or LEAVING."""
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
        """The peer has no endpoint of this name, and has dropped messages for it."""
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
        """Tell the peer that this node stops, so that it turns away from this link.

        Args:
            grace: for how long this node goes on serving, seconds.
            timeout: how long the orderly end may take, seconds, when the peer closes
                the link: it counts as the end of this node then.

        Returns:
            Whether the peer was told. It was not if it does not know the frame.
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
        """The peer stops. A second announcement changes nothing."""
        if self.leaving:
            return
        self.leaving = True
        if self.on_leaving is not None:
            self.on_leaving(self.protocol)
        self.protocol.turn_away()

    cdef int let_go(self) except -1:
        """Refer back to the link no more."""
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
