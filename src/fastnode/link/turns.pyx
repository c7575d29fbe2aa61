"""What has to wait its turn: at full endpoints, and for handlers of the same lane.

At a bounded endpoint messages and calls of all links wait in one queue. Calls that
handlers of the peers make have a queue of their own, see `fastnode.link.handling`.
Nothing of a link whose peer does not read its replies begins from there: what would is
stalled, and goes back to where it was.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from fastnode.link.backlog cimport Backlog
from fastnode.link.batches cimport Batches
from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.outbox cimport Outbox
from fastnode.link.stopwatch cimport Stopwatch
from fastnode.link.tasks cimport TASK_BYTES
from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport LANES

from collections import deque

# Not among the calls: it was cancelled.
cdef object GONE = object()


cdef class Turns(Batches):
    """What one link has received and not begun."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Windows windows not None,
        Stopwatch watch not None,
    ):
        Batches.__init__(self, loop, outbox, registry, windows, watch)
        self.backlog = Backlog(windows)

    cdef int place(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Handle it; or, after what waits already, have it wait."""
        cdef int lane = how >> HOW_LANE
        if endpoint.awaits and self.backlog.holds(lane):
            return self.put_off(endpoint, call, payload, how)
        if self.has_to_queue(endpoint, how):
            return self.queue(endpoint, call, payload, how)
        if endpoint.awaits and self.backlog.full(lane):
            return self.put_off(endpoint, call, payload, how)
        return self.handle(endpoint, call, payload, how)

    # --- behind handlers of the same lane -------------------------------------------

    cdef int put_off(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Wait for handlers of the same lane, of any endpoint."""
        if call:
            self.calls[call] = None
        self.windows.on_less = self.less
        return self.backlog.put(
            (endpoint, call, payload, how),
            how >> HOW_LANE,
            <size_t>PyBytes_GET_SIZE(payload) + TASK_BYTES,
        )

    def less(self):
        """Less is held: what was put off may go on, in a context of its own."""
        if not self.going_on:
            self.going_on = True
            self.loop.call_soon(self.go_on_late, context=self.context)

    def go_on_late(self):
        """Handle what was put off, as far as there is room."""
        cdef Endpoint endpoint
        cdef uint32_t call
        cdef int how, lane, line
        cdef size_t size
        cdef double began
        self.going_on = False
        for line in range(LANES):
            while not self.closed:
                entry = self.backlog.first(line)
                if entry is None:
                    break
                endpoint, call, payload, how = entry
                lane = how >> HOW_LANE
                if call and self.outbox.crowded():
                    self.outbox.on_room = self.resume
                    break
                if self.backlog.full(lane):
                    break
                size = <size_t>len(payload) + TASK_BYTES
                self.backlog.drop_first(lane, size)
                if call and self.calls.pop(call, GONE) is GONE:
                    pass
                elif self.has_to_queue(endpoint, how):
                    self.queue(endpoint, call, payload, how)
                else:
                    began = self.watch.now()
                    self.handle(endpoint, call, payload, how)
                    self.watch.tell(endpoint.name, began)
                self.windows.release(lane, size)
        if self.backlog.count == 0:
            self.windows.on_less = None
            self.tell_settled()
            self.rest()

    # --- at a full endpoint -------------------------------------------------------

    cdef int queue(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Wait for a full endpoint, in order over all links, against our window."""
        if call:
            self.calls[call] = None
        self.windows.held[how >> HOW_LANE] += (
            <size_t>PyBytes_GET_SIZE(payload) + TASK_BYTES
        )
        self.waiting += 1
        if self.stalled is not None and endpoint in self.stalled:
            # It would pass those.
            waiting = self.stalled[endpoint]
        else:
            waiting = endpoint.nested if how & FROM_HANDLER else endpoint.waiting
        waiting.append((self, call, payload, how))
        return 0

    cdef bint has_to_queue(self, Endpoint endpoint, int how) except? False:
        return endpoint.most > 0 and (
            endpoint.full(how & FROM_HANDLER)
            or (self.stalled is not None and endpoint in self.stalled)
        )

    def admit(self, Endpoint endpoint not None):
        """There is room at a bounded endpoint: the next ones, of any link."""
        cdef Turns inbox
        cdef double began
        cdef uint32_t call
        cdef int how
        while True:
            if endpoint.nested and endpoint.running < endpoint.most + endpoint.lent:
                entry = endpoint.nested.popleft()
            elif endpoint.waiting and endpoint.running < endpoint.most:
                entry = endpoint.waiting.popleft()
            else:
                break
            inbox, call, payload, how = entry
            if inbox.stall(endpoint, call, entry):
                continue
            inbox.waiting -= 1
            if call == 0 or inbox.calls.pop(call, GONE) is not GONE:
                began = inbox.watch.now()
                inbox.handle(endpoint, call, payload, how)
                inbox.watch.tell(endpoint.name, began)
            inbox.windows.release(how >> HOW_LANE, <size_t>len(payload) + TASK_BYTES)
            inbox.rest()

    cdef bint stall(self, Endpoint endpoint, uint32_t call, tuple entry) except? False:
        """Whether it is not to begin now, for the peer does not read its replies."""
        if not (call and self.outbox.crowded()) and (
            self.stalled is None or endpoint not in self.stalled
        ):
            return False
        if self.stalled is None:
            self.stalled = {}
        self.outbox.on_room = self.resume
        self.stalled.setdefault(endpoint, deque()).append(entry)
        return True

    cdef int unstall(self) except -1:
        """Have what is stalled wait where it was, in front."""
        cdef Endpoint endpoint
        cdef dict stalled = self.stalled
        if stalled is None:
            return 0
        self.stalled = None
        for endpoint, entries in stalled.items():
            if self.closed:
                return 0
            for entry in reversed(entries):
                if entry[3] & FROM_HANDLER:
                    endpoint.nested.appendleft(entry)
                else:
                    endpoint.waiting.appendleft(entry)
            self.admit(endpoint)
        self.tell_settled()
        return 0

    cdef int tell_settled(self) except -1:
        if self.on_settled is not None:
            self.on_settled()
        return 0

    cdef int leave(self) except -1:
        """The link has ended: what waits at endpoints is given up."""
        cdef Endpoint endpoint
        for endpoint in self.registry.by_name.values():
            if endpoint.most:
                endpoint.waiting = self.others(endpoint.waiting)
                endpoint.nested = self.others(endpoint.nested)
        self.stalled = None
        self.waiting = 0
        return 0

    def others(self, waiting):
        """What waits and came over other links."""
        return deque(entry for entry in waiting if entry[0] is not self)

    cdef int give_up(self) except -1:
        """The link has ended: nothing of this will be handled."""
        self.windows.on_less = None
        self.backlog.clear()
        if self.waiting:
            self.leave()
        return 0

    cdef bint busy(self) noexcept:
        return Batches.busy(self) or self.waiting > 0 or self.backlog.count > 0

    # --- what a subclass does with it -----------------------------------------------

    cdef int handle(
        self, Endpoint endpoint, uint32_t call, bytes payload, int how
    ) except -1:
        """Call the handler."""
        raise NotImplementedError

    def resume(self):
        """The peer has read its replies."""
        raise NotImplementedError
