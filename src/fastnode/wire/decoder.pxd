from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.buffers.slab cimport Slab
from fastnode.wire.frame cimport LANES


cdef struct Assembly:
    # A message of several frames: filled < total; open while kind is not 0.
    uint64_t total
    uint64_t filled
    uint32_t call
    uint16_t number
    uint8_t kind
    bint nested


cdef class Decoder:
    # The frame that `next` found; payload is None where the kind has no body.
    cdef uint8_t kind
    cdef uint16_t number
    cdef uint32_t call
    cdef bytes payload
    cdef int lane
    cdef bint nested
    # The extension block of the frame, or None. Frames may have one only if both sides
    # have agreed on it.
    cdef bytes block
    cdef bint extensions

    # Bytes by lane, headers included, since they were last read: what flow control
    # gives back to the sender. Of a lane without credit, nobody asks.
    cdef size_t[LANES] received

    # Limits. max_frame counts the header; max_message is 0 until the link is up.
    cdef size_t max_frame
    cdef uint64_t max_message

    # The receive slab: start <= end <= slab.capacity. Undecoded bytes lie between.
    cdef BufferPool pool
    cdef Slab slab
    cdef size_t start
    cdef size_t end

    # A payload that is received straight into its final object: direct_left bytes
    # are missing at direct_at. direct_lane: of which assembly, or -1 for a payload
    # of one frame.
    cdef bytes direct
    cdef unsigned char *direct_at
    cdef size_t direct_left
    cdef int direct_lane

    # By lane, and how many are open.
    cdef Assembly[LANES] assemblies
    cdef int assembling
    cdef list parts
    cdef list blocks

    cdef size_t reserve(self, unsigned char **at) except 0
    cdef int commit(self, size_t size) except -1
    cdef int next(self) except -1
    cdef bytes next_message(self)
    cdef bint mid_frame(self) noexcept
    cdef int rest(self) except -1
    cdef int clear(self) except -1

    cdef int open_payload(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1
    cdef int open_part(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1
    cdef int fill(
        self, bytes into, uint64_t offset, const unsigned char *data,
        size_t available, size_t size, int lane
    ) except -1
    cdef int complete(self) except -1
    cdef int small_frame(
        self, const unsigned char *at, size_t available, uint8_t flags, uint32_t length
    ) except -1
    cdef size_t take_block(
        self, const unsigned char *at, size_t available, uint32_t length, size_t prefix
    ) except? 0
    cdef object too_long(self, uint64_t size)
