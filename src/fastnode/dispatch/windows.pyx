"""Flow-control windows: the bytes that the peer may send in each lane before a grant.

The bytes of messages and calls are granted again when their handlers finish. The bytes
of replies with several frames are granted again as soon as they arrive.
"""

cimport cython
from libc.stdint cimport uint16_t, uint64_t

from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.frame cimport (
    BULK_LANE,
    BULK_REPLY_LANE,
    CREDIT,
    INNER_LANE,
    LANES,
    has_credit,
)

from struct import Struct
from time import perf_counter

from fastnode.errors import ProtocolError, Side
from fastnode.limits import (
    BULK_GRANTS,
    BULK_WINDOW_BYTES,
    GROWTH_SAMPLES,
    MAX_EXCUSED_BYTES,
    MAX_FRAME_BYTES,
)
from fastnode.dispatch.autotuning import next_window

cdef object CREDIT_BODY = Struct(">I")

# A sender checks its credit only before a frame, or before several frames in one slab.
# After that it may also send the continuations at the end of the frame's lane. So it
# may send more than its credit, by this many bytes.
cdef uint64_t OVERRUN = 2 * MAX_FRAME_BYTES
cdef uint64_t FIRST_BULK = BULK_WINDOW_BYTES
cdef uint64_t BULK_PARTS = BULK_GRANTS
cdef int NEEDED_SAMPLES = GROWTH_SAMPLES
cdef uint64_t MOST_EXCUSED = MAX_EXCUSED_BYTES


@cython.final
cdef class Windows:
    """Counts received and held bytes, and grants credit."""

    def __init__(self, loop, Outbox outbox not None, uint64_t window):
        cdef int lane
        self.loop = loop
        self.outbox = outbox
        self.room = window // 2
        for lane in range(LANES):
            self.window[lane] = window
        self.window[BULK_LANE] = min(window, FIRST_BULK)
        self.window[BULK_REPLY_LANE] = self.window[BULK_LANE]
        self.first = -1

    cdef int follow(self, Decoder decoder) noexcept:
        """Use this decoder to see incomplete messages. Its limits are known by now."""
        self.decoder = decoder
        return 0

    def grows(self, uint64_t ceiling, double round_trip, probe):
        """Let windows grow.

        Args:
            ceiling: largest size in bytes.
            round_trip: seconds of a round trip that was measured on the idle link.
            probe: returns an awaitable of the seconds of a round trip.
        """
        self.ceiling = ceiling
        self.round_trip = round_trip
        self.probe = probe

    cdef int count(self, Decoder decoder) except -1:
        """Count the bytes that the decoder has received."""
        cdef int lane
        for lane in range(LANES):
            if decoder.received[lane] and has_credit(lane):
                self.received(lane, decoder.received[lane])
            decoder.received[lane] = 0
        if self.waiting:
            self.waiting = False
            for lane in range(LANES):
                self.grant(lane)
        return 0

    cdef int received(self, int lane, size_t size) except -1:
        self.owed[lane] += size
        if self.owed[lane] > self.window[lane] + OVERRUN:
            raise ProtocolError(
                f"the peer sent {self.owed[lane]} bytes into a window of "
                f"{self.window[lane]}",
                side=Side.REMOTE,
            )
        self.grant(lane)
        return 0

    cdef uint64_t least_grant(self, int lane) noexcept:
        """Return how many owed bytes are worth a CREDIT frame."""
        return self.window[lane] // (BULK_PARTS if bulky(lane) else 2)

    cdef int grant(self, int lane) except -1:
        """Grant credit, if enough is owed and not too much is held."""
        cdef uint64_t extra, before
        if self.owed[lane] < self.least_grant(lane):
            return 0
        if self.held[lane] > self.room:
            if not self.at_limit >> lane & 1:
                self.at_limit |= <unsigned int>1 << lane
                self.limited += 1
            if self.on_full is not None and lane < INNER_LANE:
                self.on_full()
            return 0
        self.at_limit &= ~(<unsigned int>1 << lane)
        if (
            (not self.shut or lane == INNER_LANE or lane == BULK_REPLY_LANE)
            and not self.waits(lane)
        ):
            before = self.window[lane]
            extra = self.grow(lane)
            try:
                self.outbox.frame(
                    CREDIT, <uint16_t>lane, CREDIT_BODY.pack(self.owed[lane] + extra)
                )
            except MemoryError:
                # The frame was not queued, so the peer does not know the new window.
                self.window[lane] = before
                raise
            self.owed[lane] = 0
            if bulky(lane):
                # The sender may wait for this credit. So it is sent now, and not after
                # all frames of this read are handled.
                self.outbox.flush()
        return 0

    cdef bint waits(self, int lane) noexcept:
        """Return whether the incomplete message of this lane waits for another one.

        All incomplete messages together may have as many bytes as one message. Above
        this bound only one message continues until it is complete: the one that lacks
        the fewest bytes, in a lane that its handlers do not block. Calls of handlers
        never wait, because those handlers block others. Replies never wait, because
        this node asked for them.
        """
        cdef Decoder decoder = self.decoder
        cdef uint64_t here = 0
        cdef uint64_t lacks
        cdef uint64_t least = 0
        cdef int each
        cdef int first = -1
        if (
            decoder is None
            or lane >= INNER_LANE
            or not decoder.assemblies[lane].kind
        ):
            return False
        for each in range(INNER_LANE):
            if not decoder.assemblies[each].kind:
                continue
            here += decoder.assemblies[each].filled
            lacks = decoder.assemblies[each].total - decoder.assemblies[each].filled
            if self.held[each] <= self.room and (first < 0 or lacks < least):
                first = each
                least = lacks
        if here <= decoder.max_message:
            self.first = -1
            return False
        if (
            self.first >= 0
            and decoder.assemblies[self.first].kind
            and decoder.assemblies[self.first].filled >= self.first_filled
            and self.held[self.first] <= self.room
        ):
            first = self.first
        self.first = first
        if first >= 0:
            self.first_filled = decoder.assemblies[first].filled
        if lane == first:
            return False
        self.waiting = True
        return True

    cdef int grow(self, int lane) except -1:
        """Return the bytes by which the window of a lane grows with this grant."""
        # The time of uvloop has a resolution of 1 ms only.
        cdef double now = perf_counter()
        cdef double before = self.granted[lane]
        cdef uint64_t window = self.window[lane]
        self.granted[lane] = now
        if self.probe is None or window >= self.ceiling or before == 0:
            return 0
        if self.samples < NEEDED_SAMPLES:
            if not self.probing:
                self.loop.create_task(self.probe()).add_done_callback(self.measured)
                self.probing = True
            return 0
        self.window[lane] = next_window(
            window, self.owed[lane], now - before, self.round_trip, self.ceiling
        )
        if self.window[lane] > window:
            # A round trip may be slow by chance or because of other traffic. So another
            # slow one must be measured before the window grows again.
            self.samples = NEEDED_SAMPLES - 1
        return <int>(self.window[lane] - window)

    def measured(self, task):
        """Take the result of a measurement, unless the link has ended."""
        self.probing = False
        if task.cancelled() or task.exception() is not None:
            return
        self.round_trip = min(self.round_trip, task.result())
        self.samples += 1

    cdef int open(self) except -1:
        """Grant the owed bytes, because the link holds nothing back any more."""
        cdef int lane
        self.shut = False
        for lane in range(LANES):
            self.grant(lane)
        return 0

    cdef int release(self, int lane, size_t size) except -1:
        """Release the bytes of a handler that has finished."""
        self.held[lane] -= size
        if self.on_less is not None:
            self.on_less()
        return self.grant(lane)

    # --- asynchronous handlers ------------------------------------------------------

    cdef int begin(self, int lane, size_t size) except -1:
        """Count the bytes of an asynchronous handler that begins."""
        self.held[lane] += size
        self.under_way[lane] += size
        return 0

    cdef bint excuse(self, int lane, size_t size) noexcept:
        """Stop counting the bytes of a handler that waits for a call of its own.

        A message that the call depends on may wait behind the handler's bytes. So they
        must not use up the window. The caller calls `excused_now` afterwards. This rule
        is for the inner lane only: calls from handlers of other lanes use those lanes.

        Returns:
            False if the bytes still count, because too many do not count already.
        """
        self.under_way[lane] -= size
        if lane != INNER_LANE or self.excused + size > MOST_EXCUSED:
            return False
        self.excused += size
        self.held[lane] -= size
        return True

    cdef int excused_now(self, int lane, bint excused) except -1:
        """Grant the bytes that `excuse` stopped counting. `excused` is its result."""
        if self.on_less is not None:
            self.on_less()
        return self.grant(lane) if excused else 0

    cdef int go_on(self, int lane, size_t size, bint excused) except -1:
        """Count a handler again that waits no more. `excused` is from `excuse`."""
        self.under_way[lane] += size
        if excused:
            self.excused -= size
            self.held[lane] += size
        return 0

    cdef int handler_ended(self, int lane, size_t size) except -1:
        """Release the bytes of an asynchronous handler that has ended."""
        self.under_way[lane] -= size
        return self.release(lane, size)


cdef inline bint bulky(int lane) noexcept:
    """Return whether a lane is for messages of several frames."""
    return lane == BULK_LANE or lane == BULK_REPLY_LANE
