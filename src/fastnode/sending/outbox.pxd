from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.tls.engine cimport TlsEngine
from fastnode.wire.encoder cimport Encoder
from fastnode.wire.lane cimport Lane
from fastnode.wire.parking cimport Parking


cdef class QueueBudget:
    # Bytes: queued on all links of a node; the ceiling; `drain` waits above `high`.
    cdef readonly size_t used
    cdef readonly size_t most
    cdef size_t high
    cdef list waiters

    cdef int shrink(self, size_t size) except -1


cdef class Outbox:
    cdef Encoder encoder
    cdef Parking parking
    cdef TlsEngine engine
    cdef BufferPool pool
    cdef object loop
    cdef object write
    cdef unsigned long thread
    # The peer, which errors name.
    cdef object peer

    # The error that users get when they send; None while the link is up.
    cdef object closed
    # Users send on a newer link now. Frames that are queued here still leave.
    cdef bint moved
    # MOVED has to be sent when the lanes are empty.
    cdef bint moving
    # Nothing can be queued any more, even by the link itself.
    cdef bint ended
    # The transport takes more.
    cdef bint writable
    # A flush is scheduled, or will follow at the end of the current read.
    cdef bint scheduled
    cdef bint in_read
    # Writing has failed, perhaps inside a frame, so nothing more may be written.
    cdef bint torn
    # Our goodbye is queued or sent.
    cdef bint goodbye_said
    # Both sides have said goodbye: the peer takes nothing any more.
    cdef bint finished
    # Is called when all queued bytes have been written.
    cdef object on_empty
    # Is called when the peer has read enough of its replies.
    cdef object on_room
    # Is called with the exception when the engine fails.
    cdef object on_error

    # A `CodeCounts` of the errors that are sent instead of replies; may be None.
    cdef object errors

    # Frames may have extension blocks.
    cdef public bint extensions

    # Flow control: the window of the peer in each lane. Each lane has its credit.
    cdef int64_t window
    cdef uint64_t max_message
    cdef uint64_t own_max_message

    # Queued bytes: low <= high <= most.
    cdef size_t high_water
    cdef size_t low_water
    cdef size_t most
    cdef list drainers
    # Counts the queued bytes of all links; the part of this link that it has counted.
    cdef QueueBudget budget
    cdef size_t charged
    # All that is queued.
    cdef size_t counted

    cdef uint64_t bytes_written
    cdef uint64_t messages
    cdef uint64_t calls

    cdef int begin(self, peer_hello, hello) except -1
    cdef int check(self, size_t size) except -1
    cdef int send(self, str endpoint, object payload, int priority) except -1
    cdef int call(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t number,
        object payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except -1
    cdef int send_with(
        self, str endpoint, object payload, int priority, bytes block
    ) except -1
    cdef int reply(self, uint32_t number, bytes payload) except -1
    cdef int reply_with(self, uint32_t number, bytes payload, bytes block) except -1
    cdef int refuse_with(
        self, uint32_t number, int code, str name, str text, bytes block
    ) except -1
    cdef int count_error(self, str code) except -1
    cdef int refuse(self, uint32_t number, int code, str name, str text) except -1
    cdef int frame(self, uint8_t kind, uint16_t number, bytes body) except -1
    cdef int flagged_frame(
        self, uint8_t kind, uint8_t flags, uint16_t number, bytes body
    ) except -1
    cdef int schedule(self) except -1
    cdef int queued(self) except -1
    cdef int count(self) except -1
    cdef int add_credit(self, uint16_t number, uint32_t credit) except -1
    cdef int flush(self) except -1
    cdef int push_output(self) except -1
    cdef size_t pump(self, size_t budget) except? 0
    cdef size_t pack(
        self, Lane lane, unsigned char *stage, size_t budget
    ) except? 0
    cdef int move(self, error) except -1
    cdef int say_moved(self) except -1
    cdef int last_goodbye(self, bytes body) except -1
    cdef int close(self, error) except -1
    cdef int pause(self, str name) except -1
    cdef int resume(self, str name) except -1
    cdef bint drop_parked(self, uint32_t number) except? True
    cdef int check_loop(self) except -1
    cdef bint crowded(self) except? True
    cdef size_t size(self) noexcept


cdef bytes as_bytes(object payload)
cdef int fail(object waiter, object error) except -1
