"""What is held back because its endpoint is paused. Sans-IO.

A peer sends PAUSE with the name of an endpoint that is full, and RESUME when there is
room again (docs/wire-format.md, "Endpoints that are full"). In between, the messages
and calls to that endpoint wait here, in order, so that they are not in the way of
others. `fastnode.wire.parking` says when.

What was queued in the lanes before the PAUSE is taken out of them again. `Parked.find`
walks over the frames of a lane and notes which parts go. `Lane.cut` removes these
parts. A frame that has left cannot be taken back. So a message of several frames that
has begun to leave stays in its lane. Calls of handlers stay too: the endpoint may be
waiting for one of these handlers.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastnode.wire.cut cimport Cut
from fastnode.wire.frame cimport (
    BLOCK_BYTES,
    CALL,
    CALL_BYTES,
    CONFIRM,
    CONTINUE,
    DATA_LANE,
    ENDPOINT,
    EXTENDED,
    HEADER_BYTES,
    HIGH_LANE,
    MESSAGE,
    MORE,
    NESTED,
    TOTAL_BYTES,
    get16,
    get32,
    prefix_size,
)
from fastnode.wire.lane cimport Lane, Segment, Stamp

from collections import deque


cdef enum:
    # What a message costs here besides its frame: two objects and a place. Bytes. It
    # counts as queued where a message is parked as it is sent, and not where it was
    # queued before: that must not take room from other links all at once. So no more
    # than so many are taken out of a lane at a time.
    PARKED_BYTES = 128
    MOST_TAKEN = 1 << 18


@cython.final
cdef class ParkedMessage:
    """A message, call or confirmed message that is held back."""


@cython.final
cdef class ParkedQueue:
    """What is held back for one endpoint."""

    def __init__(self, str name not None):
        self.name = name
        self.normal = deque()
        self.high = deque()

    cdef Py_ssize_t messages(self) except -1:
        """How many wait here."""
        return len(self.normal) + len(self.high) - self.dropped

    cdef int drop(self, ParkedMessage message) except -1:
        """Nobody waits for this call any more.

        The message keeps its place until half of all places are such: then all of
        these are removed. So one removal costs the same, however many wait.
        """
        message.payload = message.block = None
        self.dropped += 1
        if self.dropped * 2 > len(self.normal) + len(self.high):
            self.normal = those_left(self.normal)
            self.high = those_left(self.high)
            self.dropped = 0
        return 0

    cdef int put_in_front(self, list messages, int priority) except -1:
        """These were queued before all that wait here."""
        if priority == HIGH_LANE:
            self.high.extendleft(reversed(messages))
        else:
            self.normal.extendleft(reversed(messages))
        return 0


@cython.final
cdef class Parked:
    """What one side of a link holds back."""

    def __init__(self):
        self.queues = {}
        self.calls = {}

    cdef size_t messages(self) except? 0:
        """How many are held back."""
        cdef ParkedQueue queue
        cdef size_t found = 0
        for queue in self.queues.values():
            found += <size_t>queue.messages()
        return found

    cdef int clear(self) except -1:
        """Give up everything."""
        self.queues = {}
        self.calls = {}
        self.paused = self.fresh = 0
        self.size = 0
        return 0

    cdef bint park(
        self,
        uint8_t kind,
        str endpoint,
        uint32_t call,
        bytes payload,
        int priority,
        bint nested,
        bytes block,
        double deadline,
    ) except? True:
        """Hold a message back if its endpoint is paused, or if others of the same
        endpoint and priority are still held back. False: neither is so."""
        cdef ParkedQueue queue = self.queues.get(endpoint)
        if queue is None or nested or self.feeding:
            return False
        if not queue.paused and not (
            queue.high if priority == HIGH_LANE else queue.normal
        ):
            return False
        self.add(queue, kind, call, payload, priority, block, deadline)
        return True

    cdef ParkedMessage add(
        self,
        ParkedQueue queue,
        uint8_t kind,
        uint32_t call,
        bytes payload,
        int priority,
        bytes block,
        double deadline,
    ):
        """Hold a message back, behind all others of its endpoint and priority."""
        cdef ParkedMessage message = new_message(
            queue, kind, call, payload, priority, block, deadline
        )
        message.size += PARKED_BYTES
        if call:
            self.calls[call] = message
        try:
            if priority == HIGH_LANE:
                queue.high.append(message)
            else:
                queue.normal.append(message)
        except BaseException:
            self.calls.pop(call, None)
            raise
        self.size += message.size
        return message

    cdef int forget(self, ParkedQueue queue) except -1:
        """Forget an endpoint that is not paused and has nothing here."""
        if not queue.paused and queue.messages() == 0:
            self.queues.pop(queue.name, None)
        return 0

    # --- taking out -------------------------------------------------------------

    cdef Cut take_out(self, Lane lane):
        """Take what is for fresh endpoints out of a lane. None: there is nothing.

        The lane has changed only if this returns.
        """
        cdef Cut cut = self.find(lane) if lane.count else None
        if cut is None or cut.size == 0:
            return None
        lane.cut(cut)
        return cut

    cdef Cut find(self, Lane lane):
        """Walk over the frames of a lane and note what is for fresh endpoints."""
        cdef Cut cut = Cut()
        # The queue of an endpoint that is fresh, or None, by number.
        cdef list fresh = self.fresh_at_front(lane)
        cdef list renamed = lane.renamed_since_sent()
        cdef Py_ssize_t next_renamed = 0
        cdef Segment *segment
        cdef const unsigned char *at
        cdef size_t index = 0, offset = 0, left
        cdef uint64_t position = lane.sent
        cdef size_t size
        cdef uint16_t number
        cdef uint8_t kind, flags
        cdef size_t next_stamp = 0
        cdef bint takes = False
        cdef ParkedQueue queue
        while index < lane.count:
            segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
            # Headers are never divided between two segments.
            at = segment.data + offset
            kind = at[0]
            flags = at[1]
            number = get16(at + 2)
            size = HEADER_BYTES + get32(at + 4)
            if kind == MESSAGE or kind == CALL or kind == CONFIRM:
                queue = fresh[number] if number < len(fresh) else None
                takes = queue is not None and not flags & NESTED
                if takes:
                    if len(cut.found) >= MOST_TAKEN:
                        # They leave, in front of what is parked: that is no error.
                        return None
                    while next_stamp < lane.stamp_count and (
                        lane.stamps[lane.first_stamp + next_stamp].position < position
                    ):
                        next_stamp += 1
                    cut.found.append(
                        message_at(lane, queue, index, offset, position, next_stamp)
                    )
            elif kind == ENDPOINT:
                takes = False
                while next_renamed < len(renamed) and (
                    <uint64_t>renamed[next_renamed][0] <= position
                ):
                    fresh[number] = self.fresh_queue(renamed[next_renamed][3])
                    next_renamed += 1
            elif kind != CONTINUE:
                takes = False
            if takes:
                cut.add(position, position + size)
            position += size
            left = size
            while left and index < lane.count:
                segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
                if segment.size - offset > left:
                    offset += left
                    left = 0
                else:
                    left -= segment.size - offset
                    offset = 0
                    index += 1
        return cut

    cdef list fresh_at_front(self, Lane lane):
        """The queues of fresh endpoints by the numbers that these have where the lane
        is sent now; None where an endpoint is not fresh."""
        cdef list names = lane.names_at_front()
        return [self.fresh_queue(name) for name in names]

    cdef ParkedQueue fresh_queue(self, str name):
        cdef ParkedQueue queue = self.queues.get(name)
        return queue if queue is not None and queue.fresh else None


cdef ParkedMessage new_message(
    ParkedQueue queue,
    uint8_t kind,
    uint32_t call,
    bytes payload,
    int priority,
    bytes block,
    double deadline,
):
    cdef ParkedMessage message = ParkedMessage.__new__(ParkedMessage)
    message.queue = queue
    message.kind = kind
    message.call = call
    message.payload = payload
    message.priority = priority
    message.block = block
    message.deadline = deadline
    message.size = prefix_size(kind, block) + <size_t>PyBytes_GET_SIZE(payload)
    return message


cdef ParkedMessage message_at(
    Lane lane,
    ParkedQueue queue,
    size_t index,
    size_t offset,
    uint64_t position,
    size_t next_stamp,
):
    """The message whose first frame is in segment `index` of a lane.

    Args:
        position: of the frame in the lane.
        next_stamp: the first stamp that is not before that.
    """
    cdef Segment *segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
    cdef const unsigned char *header = segment.data + offset
    cdef const unsigned char *at = header + HEADER_BYTES
    cdef size_t size = get32(header + 4)
    cdef size_t prefix = HEADER_BYTES
    cdef uint32_t call = 0
    cdef bytes block = None
    cdef bytes payload
    cdef double deadline = 0
    cdef Stamp *stamp
    if header[0] != MESSAGE:
        call = get32(at)
        at += CALL_BYTES
    if header[1] & MORE:
        at += TOTAL_BYTES
    if header[1] & EXTENDED:
        block = PyBytes_FromStringAndSize(
            <const char *>(at + BLOCK_BYTES), get16(at)
        )
        at += BLOCK_BYTES + get16(at)
        if next_stamp < lane.stamp_count:
            stamp = &lane.stamps[lane.first_stamp + next_stamp]
            if stamp.position == position:
                deadline = stamp.deadline
    prefix = at - header
    payload = payload_at(
        lane, index, offset + prefix, HEADER_BYTES + size - prefix
    )
    return new_message(
        queue,
        header[0],
        call,
        payload,
        HIGH_LANE if lane.number == HIGH_LANE else DATA_LANE,
        block,
        deadline,
    )


cdef bytes payload_at(Lane lane, size_t index, size_t offset, size_t size):
    """The payload whose first or only part is `size` bytes there: a copy of what is in
    slabs, or else the `bytes` object of the user, which has the other parts too."""
    cdef bytes payload
    cdef char *to
    cdef size_t part
    cdef Segment *segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
    if size == 0:
        return b""
    if offset == segment.size:
        offset = 0
        index += 1
        segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
    if not segment.of_slab:
        return <bytes>segment.owner
    payload = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(payload)
    while size:
        segment = &lane.ring[(lane.first + index) & (lane.slots - 1)]
        part = min(size, segment.size - offset)
        memcpy(to, segment.data + offset, part)
        to += part
        size -= part
        offset = 0
        index += 1
    return payload


cdef object those_left(object messages):
    """A deque of the messages that were not given up."""
    cdef ParkedMessage message
    return deque([message for message in messages if message.payload is not None])
