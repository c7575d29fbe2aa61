from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from fastnode.buffers.pool cimport BufferPool
from fastnode.buffers.slab cimport Slab
from fastnode.wire.book cimport Book
from fastnode.wire.cut cimport Cut


cdef struct Segment:
    # A strong reference to whatever keeps `data` alive: a Slab or a bytes object.
    PyObject *owner
    const unsigned char *data
    size_t size
    bint of_slab
    # The segment ends where a frame ends: another lane may go next.
    bint ends


cdef struct Stamp:
    # The frame begins at this position (bytes ever sent in the lane). Where in it the
    # time that is left of its deadline is to be written, and the deadline.
    uint64_t position
    unsigned char *at
    double deadline


cdef struct LaneMark:
    # What `Lane.roll_back` needs to know of the end of the queue. `tail` is borrowed: a
    # slab that a lane has replaced as its tail has segments, which refer to it.
    size_t size
    size_t count
    size_t newest_size
    bint newest_ends
    bint open
    PyObject *tail
    size_t tail_used
    size_t stamp_count


cdef class Lane:
    # Bytes queued: the sum of the sizes of all segments.
    cdef readonly size_t size
    # Bytes that were popped, ever.
    cdef uint64_t sent
    # Which lane it is, and what the peer takes in it: frames begin while credit > 0,
    # so it may fall below 0 by one run.
    cdef readonly int number
    cdef readonly int64_t credit
    cdef readonly Book book
    cdef BufferPool pool
    # A ring of segments: first <= index < first + count, modulo slots (a power of 2).
    cdef Segment *ring
    cdef size_t slots
    cdef size_t first
    cdef size_t count
    # The slab that is being filled: tail_used <= tail.capacity. The newest segment
    # may grow at its end (`open`).
    cdef Slab tail
    cdef size_t tail_used
    cdef bint open
    # Of queued frames with a deadline, in order: first_stamp <= index < stamp_count.
    cdef Stamp *stamps
    cdef size_t stamp_slots
    cdef size_t first_stamp
    cdef size_t stamp_count
    # Numbers of the book that were given to other names, while that may not have left:
    # (position of the ENDPOINT frame, number, name before, name after); None: none.
    cdef object renamed

    cdef int expect_stamp(self) except -1
    cdef int add_stamp(self, unsigned char *at, double deadline) noexcept
    cdef int stamp(self, size_t size, double now) noexcept
    cdef unsigned char *room(self, size_t size) except NULL
    cdef int wrote(self, size_t size, bint ends) except -1
    cdef int copy(self, const unsigned char *data, size_t size, bint ends) except -1
    cdef int refer(
        self, bytes owner, const unsigned char *data, size_t size, bint ends
    ) except -1
    cdef void mark(self, LaneMark *mark) noexcept
    cdef int roll_back(self, LaneMark *mark) except -1
    cdef Segment *newest(self) noexcept
    cdef Segment *front(self) noexcept
    cdef size_t messages(self) noexcept
    cdef int renames(self, uint64_t position, str name) except -1
    cdef list renamed_since_sent(self)
    cdef list names_at_front(self)
    cdef int cut(self, Cut cut) except -1
    cdef int cut_stamps(self, Cut cut) except -1
    cdef int pop(self) except -1
    cdef int clear(self) except -1
    cdef int rest(self) except -1

    cdef int push(
        self,
        object owner,
        const unsigned char *data,
        size_t size,
        bint of_slab,
        bint ends,
    ) except -1
    cdef int grow(self) except -1
    cdef int next_slab(self) except -1
    cdef int unuse(self, Slab slab) except -1
