"""Lane: a queue of bytes to send. Small payloads are copied, large ones are not.

A lane is a queue of segments. Small frames are copied into a slab, one after another,
and form one segment. A large payload is a segment of its own that refers to the user's
`bytes` object. The sender takes the front segment, uses its bytes and pops it. Popping
gives slabs back to the pool, and drops references to Python objects.

A frame may carry the time that is left of its deadline. This time is known only when
the frame leaves. So the lane remembers where to write the time, and the sender calls
`stamp` before it uses a segment.

Rules for editors of this file. Memory may run out in `room`, `wrote`, `copy` and
`refer`. Each step of `wrote` and `refer` that can fail comes before the first change,
so the pair `room` and `wrote` queues everything or nothing. `copy` may have queued a
part of its data when it fails. A frame of several such steps needs a `mark` before its
first step and `roll_back` when a step fails: half a frame would corrupt the stream.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.string cimport memcpy, memmove

from fastnode.buffers.pool cimport BufferPool
from fastnode.buffers.slab cimport Slab
from fastnode.wire.book cimport Book
from fastnode.wire.cut cimport Cut
from fastnode.wire.extension cimport microseconds
from fastnode.wire.frame cimport (
    HEADER_BYTES,
    MORE,
    get32,
    put64,
)

from collections import deque

from fastnode.wire.kinds import mask

cdef enum:
    # Four full TLS records, and the amount that is flushed at once.
    LANE_SLAB_BYTES = 64 << 10
    FIRST_SLOTS = 8
    # A ring that grew beyond this is given back when the lane has drained.
    KEPT_SLOTS = 64

# Kinds with a payload of a user, as a bit mask.
cdef unsigned int PAYLOADS = mask(lambda kind: kind.most is None)


@cython.final
cdef class Lane:
    """A queue of bytes to send, and what the peer knows of what comes in it."""

    def __cinit__(self, BufferPool pool not None, int number=0):
        self.pool = pool
        self.number = number
        self.book = Book()

    def __dealloc__(self):
        # Slabs that are still queued are freed with their objects, but the pool
        # would count them as taken: a link clears its lanes when it ends.
        cdef Segment *segment
        while self.count:
            segment = self.front()
            Py_DECREF(<object>segment.owner)
            self.first = (self.first + 1) & (self.slots - 1)
            self.count -= 1
        PyMem_RawFree(self.ring)
        PyMem_RawFree(self.stamps)

    cdef unsigned char *room(self, size_t size) except NULL:
        """`size` contiguous bytes at the end of the queue, for `wrote`."""
        if self.tail is None or self.tail.capacity - self.tail_used < size:
            self.next_slab()
        return self.tail.data + self.tail_used

    cdef int wrote(self, size_t size, bint ends) except -1:
        """Queue the `size` bytes that were written where `room` said."""
        cdef Segment *newest
        if self.open:
            newest = self.newest()
            newest.size += size
            newest.ends = ends
        else:
            self.push(
                self.tail, self.tail.data + self.tail_used, 0, True, ends
            )
            self.tail.users += 1
            self.newest().size = size
            self.open = True
        self.tail_used += size
        self.size += size
        return 0

    cdef int copy(self, const unsigned char *data, size_t size, bint ends) except -1:
        """Queue a copy; it may be split over two slabs, so that slabs fill up.

        The second part is a segment of its own: what stands between two frame ends
        stays bounded, however many frames are split.
        """
        cdef size_t fits
        cdef bint split = False
        while size:
            if self.tail is None or self.tail_used == self.tail.capacity:
                self.next_slab()
            fits = min(size, self.tail.capacity - self.tail_used)
            memcpy(self.tail.data + self.tail_used, data, fits)
            data += fits
            size -= fits
            self.wrote(fits, ends and size == 0)
            split = split or size > 0
        if split:
            self.open = False
        return 0

    cdef int refer(
        self, bytes owner, const unsigned char *data, size_t size, bint ends
    ) except -1:
        """Queue bytes uncopied; `owner` is kept alive until they are popped."""
        self.push(owner, data, size, False, ends)
        self.size += size
        self.open = False
        return 0

    cdef int expect_stamp(self) except -1:
        """See that `add_stamp` has room for one more."""
        cdef size_t slots
        cdef Stamp *stamps
        if self.first_stamp + self.stamp_count < self.stamp_slots:
            return 0
        if self.first_stamp > self.stamp_count:
            memmove(
                self.stamps,
                self.stamps + self.first_stamp,
                self.stamp_count * sizeof(Stamp),
            )
            self.first_stamp = 0
            return 0
        slots = self.stamp_slots * 2 if self.stamp_slots else FIRST_SLOTS
        stamps = <Stamp *>PyMem_RawRealloc(self.stamps, slots * sizeof(Stamp))
        if stamps == NULL:
            raise MemoryError()
        self.stamps = stamps
        self.stamp_slots = slots
        return 0

    cdef int add_stamp(self, unsigned char *at, double deadline) noexcept:
        """Have the time that is left written to `at`, in the frame that is queued next,
        when it leaves. Only after `expect_stamp`."""
        cdef Stamp *stamp = &self.stamps[self.first_stamp + self.stamp_count]
        stamp.position = self.sent + self.size
        stamp.at = at
        stamp.deadline = deadline
        self.stamp_count += 1
        return 0

    cdef int stamp(self, size_t size, double now) noexcept:
        """The next `size` bytes leave: write the time that their frames have left."""
        cdef Stamp *stamp
        while self.stamp_count:
            stamp = &self.stamps[self.first_stamp]
            if stamp.position >= self.sent + size:
                return 0
            put64(stamp.at, microseconds(stamp.deadline - now))
            self.first_stamp += 1
            self.stamp_count -= 1
        self.first_stamp = 0
        return 0
    cdef void mark(self, LaneMark *mark) noexcept:
        """Note where the queue ends, for `roll_back`."""
        cdef Segment *newest
        mark.size = self.size
        mark.count = self.count
        if self.count:
            newest = self.newest()
            mark.newest_size = newest.size
            mark.newest_ends = newest.ends
        mark.open = self.open
        mark.tail = <PyObject *>self.tail
        mark.tail_used = self.tail_used
        mark.stamp_count = self.stamp_count

    cdef int roll_back(self, LaneMark *mark) except -1:
        """Drop all that was queued since `mark`. Nothing was popped meanwhile. Needs no
        memory."""
        cdef Slab tail = <Slab><object>mark.tail
        cdef Slab fresh = self.tail
        cdef object owner
        cdef bint of_slab
        while self.count > mark.count:
            owner = <object>self.newest().owner
            of_slab = self.newest().of_slab
            self.count -= 1
            Py_DECREF(owner)
            if of_slab:
                (<Slab>owner).users -= 1
                if (<Slab>owner).users == 0 and owner is not tail and (
                    owner is not fresh
                ):
                    self.pool.put(<Slab>owner)
        self.tail = tail
        if fresh is not None and fresh is not tail:
            self.pool.put(fresh)
        self.size = mark.size
        self.tail_used = mark.tail_used
        self.open = mark.open
        self.stamp_count = mark.stamp_count
        if self.count == 0:
            self.open = False
            return self.rest()
        self.newest().size = mark.newest_size
        self.newest().ends = mark.newest_ends
        return 0

    cdef Segment *newest(self) noexcept:
        """The segment that was queued last, if there is one."""
        return &self.ring[(self.first + self.count - 1) & (self.slots - 1)]

    cdef Segment *front(self) noexcept:
        """The oldest segment, or NULL."""
        return &self.ring[self.first] if self.count else NULL

    cdef size_t messages(self) noexcept:
        """Messages and calls that are queued, or whose last frame is; walks over it."""
        cdef unsigned char header[HEADER_BYTES]
        cdef size_t have = 0, skip = 0, found = 0, left, part, i
        cdef Segment *segment
        cdef const unsigned char *at
        for i in range(self.count):
            segment = &self.ring[(self.first + i) & (self.slots - 1)]
            at = segment.data
            left = segment.size
            while left:
                if skip:
                    part = min(skip, left)
                    skip -= part
                else:
                    part = min(HEADER_BYTES - have, left)
                    memcpy(header + have, at, part)
                    have += part
                    if have == HEADER_BYTES:
                        have = 0
                        skip = get32(header + 4)
                        if PAYLOADS >> header[0] & 1:
                            found += not header[1] & MORE
                at += part
                left -= part
        return found

    # --- taking frames out, see fastnode.wire.parked ------------------------------

    cdef int renames(self, uint64_t position, str name) except -1:
        """The ENDPOINT frame at this position gives the next number of the book, which
        another name had, to this name. The book is told afterwards."""
        if self.renamed is None:
            self.renamed = deque()
        while self.renamed and <uint64_t>self.renamed[0][0] < self.sent:
            self.renamed.popleft()
        self.renamed.append((position, self.book.next, self.book.replaced(), name))
        return 0

    cdef list renamed_since_sent(self):
        """What `renames` was told of frames that are queued."""
        if self.renamed is None:
            return []
        return [each for each in self.renamed if <uint64_t>each[0] >= self.sent]

    cdef list names_at_front(self):
        """The names by number, as the frame at the front of the queue uses them."""
        cdef list names = [] if self.book.names is None else list(self.book.names)
        for _, number, before, _ in reversed(self.renamed_since_sent()):
            names[number] = before
        return names

    cdef int cut(self, Cut cut) except -1:
        """Take parts out of the queue that begin and end where frames do."""
        cdef list starts = cut.starts
        cdef list ends = cut.ends
        cdef size_t slots = FIRST_SLOTS
        cdef size_t count = self.count
        cdef size_t old_slots = self.slots
        cdef size_t first = self.first
        cdef Segment *ring = self.ring
        cdef Segment *fresh
        cdef Segment *segment
        cdef Segment *newest
        cdef size_t kept = 0, index, at, part, size = 0
        cdef Py_ssize_t next_cut = 0
        cdef uint64_t position = self.sent
        cdef uint64_t start, end
        cdef object owner
        while slots < count + <size_t>len(starts) + 1:
            slots *= 2
        fresh = <Segment *>PyMem_RawMalloc(slots * sizeof(Segment))
        if fresh == NULL:
            raise MemoryError()
        start, end = starts[0], ends[0]
        for index in range(count):
            segment = &ring[(first + index) & (old_slots - 1)]
            at = 0
            while at < segment.size:
                while end <= position + at:
                    next_cut += 1
                    if next_cut < len(starts):
                        start, end = starts[next_cut], ends[next_cut]
                    else:
                        start = end = <uint64_t>-1
                if start <= position + at:
                    # Inside of what is taken out.
                    at = min(segment.size, <size_t>(end - position))
                    continue
                part = segment.size - at
                if start - position - at < part:
                    part = <size_t>(start - position - at)
                newest = &fresh[kept]
                newest[0] = segment[0]
                newest.data = segment.data + at
                newest.size = part
                newest.ends = segment.ends or at + part < segment.size
                Py_INCREF(<object>newest.owner)
                if newest.of_slab:
                    (<Slab>newest.owner).users += 1
                size += part
                kept += 1
                at += part
            position += segment.size
        self.ring = fresh
        self.slots = slots
        self.first = 0
        self.count = kept
        self.size = size
        self.open = False
        self.cut_stamps(cut)
        for index in range(count):
            segment = &ring[(first + index) & (old_slots - 1)]
            owner = <object>segment.owner
            Py_DECREF(owner)
            if segment.of_slab:
                self.unuse(<Slab>owner)
        PyMem_RawFree(ring)
        owner = None
        if kept == 0:
            self.rest()
        return 0

    cdef int cut_stamps(self, Cut cut) except -1:
        """Forget the stamps of what was taken out. The positions of the others, and of
        names, are now what the cut has made of them."""
        cdef list starts = cut.starts
        cdef list ends = cut.ends
        cdef size_t index, kept = 0
        cdef Py_ssize_t next_cut = 0
        cdef uint64_t gone = 0
        cdef Stamp *stamp
        if self.renamed:
            self.renamed = deque([
                (cut.moved(position), number, before, after)
                for position, number, before, after in self.renamed_since_sent()
            ])
        for index in range(self.stamp_count):
            stamp = &self.stamps[self.first_stamp + index]
            while next_cut < len(ends) and <uint64_t>ends[next_cut] <= stamp.position:
                gone += <uint64_t>ends[next_cut] - <uint64_t>starts[next_cut]
                next_cut += 1
            if next_cut < len(starts) and <uint64_t>starts[next_cut] <= stamp.position:
                continue
            self.stamps[self.first_stamp + kept] = stamp[0]
            self.stamps[self.first_stamp + kept].position -= gone
            kept += 1
        self.stamp_count = kept
        if kept == 0:
            self.first_stamp = 0
        return 0

    cdef int pop(self) except -1:
        """Drop the front segment: its bytes were sent, or are given up."""
        cdef Segment *segment = &self.ring[self.first]
        cdef object owner = <object>segment.owner
        cdef bint of_slab = segment.of_slab
        self.size -= segment.size
        self.sent += segment.size
        self.first = (self.first + 1) & (self.slots - 1)
        self.count -= 1
        Py_DECREF(owner)
        if of_slab:
            self.unuse(<Slab>owner)
        else:
            self.pool.spares.put(<bytes>owner)
        if self.count == 0:
            self.open = False
            self.rest()
        return 0

    cdef int clear(self) except -1:
        """Give up everything that is queued, and all memory."""
        self.first_stamp = self.stamp_count = 0
        while self.count:
            self.pop()
        return self.rest()

    cdef int rest(self) except -1:
        """Give back what an empty lane does not need."""
        if self.tail is not None:
            self.pool.put(self.tail)
            self.tail = None
        if self.slots > KEPT_SLOTS:
            PyMem_RawFree(self.ring)
            self.ring = NULL
            self.slots = 0
            self.first = 0
        if self.stamp_slots > KEPT_SLOTS and self.stamp_count == 0:
            PyMem_RawFree(self.stamps)
            self.stamps = NULL
            self.stamp_slots = 0
        return 0

    cdef int unuse(self, Slab slab) except -1:
        slab.users -= 1
        if slab.users == 0:
            if slab is self.tail:
                self.tail_used = 0
            else:
                self.pool.put(slab)
        return 0

    cdef int next_slab(self) except -1:
        cdef Slab fresh = self.pool.get(LANE_SLAB_BYTES)
        # A full tail has users, or it would have been reset to its beginning.
        assert self.tail is None or self.tail.users > 0
        self.tail = fresh
        self.tail_used = 0
        self.open = False
        return 0

    cdef int push(
        self,
        object owner,
        const unsigned char *data,
        size_t size,
        bint of_slab,
        bint ends,
    ) except -1:
        cdef Segment *segment
        if self.count == self.slots:
            self.grow()
        segment = &self.ring[(self.first + self.count) & (self.slots - 1)]
        Py_INCREF(owner)
        segment.owner = <PyObject *>owner
        segment.data = data
        segment.size = size
        segment.of_slab = of_slab
        segment.ends = ends
        self.count += 1
        return 0

    cdef int grow(self) except -1:
        cdef size_t slots = self.slots * 2 if self.slots else FIRST_SLOTS
        cdef Segment *ring = <Segment *>PyMem_RawMalloc(slots * sizeof(Segment))
        cdef size_t i
        if ring == NULL:
            raise MemoryError()
        for i in range(self.count):
            ring[i] = self.ring[(self.first + i) & (self.slots - 1)]
        PyMem_RawFree(self.ring)
        self.ring = ring
        self.slots = slots
        self.first = 0
        return 0
