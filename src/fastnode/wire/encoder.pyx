"""Messages to frames, in two lanes.

Payloads up to COPY_BYTES are copied into a slab behind their header. Larger ones are
cut into frames of `max_frame` bytes; the frames refer to the user's `bytes` object.
Messages and calls go into the data lane, which flow control may hold up; replies and
everything that keeps a link going go into the control lane.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastnode.buffers.pool cimport BufferPool
from fastnode.wire.frame cimport (
    CALL,
    CALL_BYTES,
    CONFIRM,
    CONTINUE,
    CONTROL_LANE,
    DATA_LANE,
    ENDPOINT,
    HEADER_BYTES,
    MESSAGE,
    MORE,
    REPLY,
    TOTAL_BYTES,
    put32,
    put64,
    put_header,
)
from fastnode.wire.lane cimport Lane, Segment

from fastnode.errors import ConfigError
from fastnode.limits import (
    ENDPOINT_DICTIONARY_SIZE,
    MAX_ENDPOINT_NAME_BYTES,
    MAX_FRAME_BYTES,
)

cdef enum:
    # One TLS record: copying it costs less than a record that is not full.
    COPY_BYTES = 16 << 10

cdef size_t NAME_BYTES = MAX_ENDPOINT_NAME_BYTES


@cython.final
cdef class Encoder:
    """Encodes what one side of a link sends.

    Args:
        pool: where slabs come from.
    """

    def __init__(self, BufferPool pool not None):
        self.data = Lane(pool)
        self.control = Lane(pool)
        self.max_frame = MAX_FRAME_BYTES
        self.book = {}
        self.book_names = []
        self.book_size = ENDPOINT_DICTIONARY_SIZE
        self.book_next = 0
        self.last_name = None

    # --- the view from Python: tests, benchmarks ------------------------------

    def limit(self, size_t max_frame, Py_ssize_t endpoints):
        """Set what the peer takes: bytes of a frame, names in its dictionary."""
        self.set_limits(max_frame, endpoints)

    def add_message(self, str endpoint not None, bytes payload not None):
        """Queue a one-way message. `payload` is kept alive until it is taken."""
        self.message(endpoint, payload)

    def add_call(self, str endpoint not None, uint32_t call, bytes payload not None):
        """Queue a call with this number."""
        self.call(CALL, endpoint, call, payload)

    def add_confirm(self, str endpoint not None, uint32_t call, bytes payload not None):
        """Queue a message whose confirmation has this number."""
        self.call(CONFIRM, endpoint, call, payload)

    def add_reply(self, uint32_t call, bytes payload not None):
        """Queue the reply to the call with this number."""
        self.reply(call, payload)

    def add_frame(self, uint8_t kind, uint16_t number, bytes body not None):
        """Queue a frame without a user's payload in the control lane."""
        self.frame(
            self.control,
            kind,
            number,
            <const unsigned char *>PyBytes_AS_STRING(body),
            PyBytes_GET_SIZE(body),
        )

    def take(self):
        """All queued bytes, control lane first, as one `bytes` object."""
        cdef list pieces = []
        cdef Lane lane
        cdef Segment *segment
        for lane in (self.control, self.data):
            while lane.count:
                segment = lane.front()
                pieces.append((<const char *>segment.data)[:segment.size])
                lane.pop()
        return b"".join(pieces)

    def clear(self):
        """Give up what is queued and return all slabs."""
        self.control.clear()
        self.data.clear()

    # --- the view from Cython -------------------------------------------------

    cdef int set_limits(self, size_t max_frame, Py_ssize_t endpoints) except -1:
        if endpoints < 1 or max_frame < 1024:
            raise ValueError("limits that no peer may have")
        self.max_frame = max_frame
        self.book_size = endpoints
        return 0

    cdef int number_of(self, str name) except -1:
        """The number of an endpoint; a name that has none is sent first.

        At the bound of the dictionary the oldest number is given to the new name:
        both sides handle the data lane in order, so they agree at every frame.
        """
        cdef object known
        cdef bytes text
        cdef Py_ssize_t number
        if name is self.last_name:
            return self.last_number
        known = self.book.get(name)
        if known is None:
            text = name.encode("utf-8")
            if not 0 < <size_t>len(text) <= NAME_BYTES:
                raise ConfigError(
                    f"an endpoint's name has 1 to {NAME_BYTES} bytes, "
                    f"this one has {len(text)}"
                )
            number = self.book_next
            if number < len(self.book_names):
                del self.book[self.book_names[number]]
                self.book_names[number] = name
            else:
                self.book_names.append(name)
            self.book_next = number + 1 if number + 1 < self.book_size else 0
            self.book[name] = number
            self.frame(
                self.data,
                ENDPOINT,
                <uint16_t>number,
                <const unsigned char *>PyBytes_AS_STRING(text),
                len(text),
            )
        else:
            number = known
        self.last_name = name
        self.last_number = <uint16_t>number
        return <int>number

    cdef int message(self, str endpoint, bytes payload) except -1:
        cdef uint16_t number = <uint16_t>self.number_of(endpoint)
        return self.payload(self.data, MESSAGE, number, 0, payload)

    cdef int call(
        self, uint8_t kind, str endpoint, uint32_t call, bytes payload
    ) except -1:
        """Queue a CALL or CONFIRM."""
        cdef uint16_t number = <uint16_t>self.number_of(endpoint)
        return self.payload(self.data, kind, number, call, payload)

    cdef int reply(self, uint32_t call, bytes payload) except -1:
        return self.payload(self.control, REPLY, 0, call, payload)

    cdef int frame(
        self,
        Lane lane,
        uint8_t kind,
        uint16_t number,
        const unsigned char *body,
        size_t size,
    ) except -1:
        """Queue a small frame whose body is `size` bytes at `body`."""
        cdef unsigned char *at = lane.room(HEADER_BYTES + size)
        put_header(at, kind, 0, number, <uint32_t>size)
        if size:
            memcpy(at + HEADER_BYTES, body, size)
        lane.wrote(HEADER_BYTES + size, True)
        return 0

    cdef int payload(
        self, Lane lane, uint8_t kind, uint16_t number, uint32_t call, bytes payload
    ) except -1:
        cdef size_t size = PyBytes_GET_SIZE(payload)
        cdef const unsigned char *data = (
            <const unsigned char *>PyBytes_AS_STRING(payload)
        )
        cdef size_t prefix = HEADER_BYTES if kind == MESSAGE else (
            HEADER_BYTES + CALL_BYTES
        )
        cdef unsigned char *at
        if size > COPY_BYTES or prefix + size > self.max_frame:
            return self.large(lane, kind, number, call, payload)
        if size <= 4096:
            at = lane.room(prefix + size)
            put_header(at, kind, 0, number, <uint32_t>(prefix - HEADER_BYTES + size))
            if kind != MESSAGE:
                put32(at + HEADER_BYTES, call)
            memcpy(at + prefix, data, size)
            lane.wrote(prefix + size, True)
        else:
            at = lane.room(prefix)
            put_header(at, kind, 0, number, <uint32_t>(prefix - HEADER_BYTES + size))
            if kind != MESSAGE:
                put32(at + HEADER_BYTES, call)
            lane.wrote(prefix, False)
            lane.copy(data, size, True)
        return 0

    cdef int large(
        self, Lane lane, uint8_t kind, uint16_t number, uint32_t call, bytes payload
    ) except -1:
        """Queue a payload uncopied: one frame, or one and its continuations."""
        cdef size_t left = PyBytes_GET_SIZE(payload)
        cdef const unsigned char *data = (
            <const unsigned char *>PyBytes_AS_STRING(payload)
        )
        cdef size_t prefix = HEADER_BYTES
        cdef size_t part
        cdef bint more
        cdef uint16_t channel = DATA_LANE if lane is self.data else CONTROL_LANE
        cdef unsigned char *at
        if kind != MESSAGE:
            prefix += CALL_BYTES
        more = prefix + left > self.max_frame
        if more:
            prefix += TOTAL_BYTES
        part = self.max_frame - prefix if more else left
        at = lane.room(prefix)
        put_header(
            at,
            kind,
            MORE if more else 0,
            number,
            <uint32_t>(prefix - HEADER_BYTES + part),
        )
        if kind != MESSAGE:
            put32(at + HEADER_BYTES, call)
        if more:
            put64(at + prefix - TOTAL_BYTES, <uint64_t>left)
        lane.wrote(prefix, False)
        lane.refer(payload, data, part, True)
        left -= part
        data += part
        while left:
            part = min(left, self.max_frame - HEADER_BYTES)
            more = part < left
            at = lane.room(HEADER_BYTES)
            put_header(at, CONTINUE, MORE if more else 0, channel, <uint32_t>part)
            lane.wrote(HEADER_BYTES, False)
            lane.refer(payload, data, part, True)
            left -= part
            data += part
        return 0
