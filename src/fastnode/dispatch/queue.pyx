"""Deliveries that cannot begin at once, and the one place that decides this.

How it works. `place` looks for what is in the way of a delivery and either begins it or
has it wait. There are three things that can be in its way, and they come in this order:

1. Its link. While the peer does not read the replies that it asked for, nothing more is
   handled. While an older link with the peer has messages left, nothing may overtake
   them. The link grants nothing meanwhile, so the window bounds what is held. Reading
   goes on, so two nodes that do this to each other do not block each other.
2. Its lane. A window counts bytes, and a handler under way costs a task, however small
   its message. Without a bound a window of empty messages would become 130 thousand
   tasks at once. Large and small messages of normal priority share a line, for they
   share an order.
3. Its endpoint, if that has a bound. There the deliveries of all links of the node wait
   in one line, and calls from handlers of peers in another, see
   `fastnode.dispatch.handler`. If the turn of a delivery comes while its peer does not
   read its replies, it stalls: others of the line pass, and it goes back to the front
   later. What waits for its lane or endpoint counts against the window.

Where an endpoint fills the window, `fastnode.dispatch.congestion` pauses it. What came
for it is no longer in the way of others: it is *set aside*, and it waits for the
handlers of its own endpoint, in a line of its own, where it would have waited for those
of its lane.

An endpoint may refuse calls instead of having them wait (`max_waiting`). Messages that
nobody waits for are never refused.

Two functions begin what has waited: `pump` for a link, `admit` for an endpoint. Both
are called by the loop or by a handler's end, never within code of the user, and both
run in the node's own context. What goes wrong in them ends the link that it is about.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastnode.dispatch.batches cimport Batches
from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.endpoint cimport Endpoint, EndpointRegistry
from fastnode.dispatch.handler cimport (
    CONFIRMED,
    DONE,
    HELD,
    NESTED,
    QUEUED,
    Delivery,
    Handlers,
    aside_size,
    new_delivery,
)
from fastnode.dispatch.paused cimport PausedEndpoint
from fastnode.wire.extension cimport Extension
from fastnode.wire.frame cimport BULK_LANE, DATA_LANE, INNER_LANE, LANES

from collections import deque

from fastnode.limits import MAX_UNDER_WAY_BYTES
from fastnode.wire.call_error import HANDLER_RAISED

cdef uint64_t MOST_UNDER_WAY = MAX_UNDER_WAY_BYTES

# Why a batch endpoint cannot be called.
cdef str NO_REPLY = (
    "this endpoint takes batches and replies to nothing: send to it "
    "(confirm=True waits until it was handed over), or call another one"
)


cdef inline int line_of(int lane) noexcept:
    """The lane in whose line a delivery waits."""
    return DATA_LANE if lane == BULK_LANE else lane


@cython.final
cdef class DeliveryQueue:
    """What one link has received and not begun."""

    def __init__(self, Handlers handlers not None, Batches batches not None):
        self.handlers = handlers
        self.batches = batches
        self.windows = handlers.windows
        self.outbox = handlers.outbox
        self.paused = handlers.paused
        self.paused.on_less = self.wake
        self.lanes = [None] * LANES
        handlers.on_lent = self.admit

    # --- arrivals -------------------------------------------------------------------

    cdef int accept(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1:
        """Begin what has come, or have it wait."""
        cdef bint crowded = call != 0 and self.outbox.crowded()
        if crowded or (self.held is not None and lane != INNER_LANE):
            if crowded:
                self.wait_for_room()
            return self.hold_back(
                new_delivery(
                    self.handlers, endpoint, payload, lane, call, flags, extension
                )
            )
        return self.place(endpoint, payload, lane, call, flags, extension, None)

    cdef int place(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
        Delivery delivery,
    ) except -1:
        """Begin what its link lets pass, or have it wait.

        Args:
            delivery: the same, if it has waited before; else None.
        """
        cdef PausedEndpoint record
        cdef bint lane_first, blocked
        if self.paused.count and not flags & NESTED:
            record = self.paused.by_name.get(endpoint.name)
            if record is not None and (record.paused or record.line):
                return self.place_paused(
                    record, endpoint, payload, lane, call, flags, extension, delivery
                )
        lane_first = endpoint.awaits and (
            self.in_lanes > 0 and bool(self.lanes[line_of(lane)])
        )
        blocked = not lane_first and self.blocked(endpoint, flags)
        if not blocked and not lane_first:
            if not endpoint.awaits or self.windows.under_way[lane] <= MOST_UNDER_WAY:
                if delivery is not None:
                    return self.start(delivery)
                return self.begin(endpoint, payload, lane, call, flags, extension)
        if delivery is None:
            delivery = new_delivery(
                self.handlers, endpoint, payload, lane, call, flags, extension
            )
        if blocked:
            return self.wait_at_endpoint(delivery)
        return self.wait_for_lane(delivery)

    cdef int place_paused(
        self,
        PausedEndpoint record,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
        Delivery delivery,
    ) except -1:
        """The same for an endpoint that is paused, or has a line of its own."""
        cdef bint first = not record.line
        cdef bint blocked = first and self.blocked(endpoint, flags)
        if first and not blocked and (not endpoint.awaits or self.has_room(lane)):
            if delivery is not None:
                return self.start(delivery)
            return self.begin(endpoint, payload, lane, call, flags, extension)
        if delivery is None:
            delivery = new_delivery(
                self.handlers, endpoint, payload, lane, call, flags, extension
            )
        if blocked:
            return self.wait_at_endpoint(delivery)
        return self.wait_in_line(delivery, record)

    cdef int begin(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1:
        """Nothing is in the way: give it to its handler, or add it to a batch."""
        if extension is not None and self.handlers.is_over(extension):
            return self.handlers.refuse_late(endpoint, call)
        if not endpoint.batch or endpoint.handler is None:
            return self.handlers.begin(
                endpoint, payload, lane, call, flags, extension
            )
        if call and not flags & CONFIRMED:
            return self.outbox.refuse(call, HANDLER_RAISED, "ConfigError", NO_REPLY)
        return self.batches.gather(endpoint, payload, lane, call, flags, extension)

    cdef int start(self, Delivery delivery) except -1:
        """Begin what has waited, unless its caller gave it up."""
        cdef Endpoint endpoint = delivery.endpoint
        cdef double began
        if delivery.state == DONE:
            return 0
        delivery.state = DONE
        if delivery.call:
            self.handlers.calls.pop(delivery.call, None)
        began = self.handlers.watch.now()
        self.begin(
            endpoint,
            delivery.payload,
            delivery.lane,
            delivery.call,
            delivery.flags,
            delivery.extension,
        )
        return self.handlers.watch.tell(endpoint.name, began)

    # --- waiting --------------------------------------------------------------------

    cdef int hold_back(self, Delivery delivery) except -1:
        """Have the link hold it; nothing is granted meanwhile."""
        delivery.state = HELD
        if self.held is None:
            self.held = deque()
            self.handlers.held = self.windows.shut = True
        if delivery.call:
            self.handlers.calls[delivery.call] = delivery
        self.held.append(delivery)
        return 0

    cdef int wait_for_lane(self, Delivery delivery) except -1:
        """Wait for handlers of the same lane, of any endpoint."""
        cdef int line = line_of(delivery.lane)
        delivery.state = QUEUED
        if delivery.call:
            self.handlers.calls[delivery.call] = delivery
        if self.lanes[line] is None:
            self.lanes[line] = deque()
        self.lanes[line].append(delivery)
        self.in_lanes += 1
        self.windows.held[delivery.lane] += delivery.size
        self.windows.on_less = self.wake
        if self.on_full is not None:
            self.on_full()
        return 0

    cdef int wait_in_line(self, Delivery delivery, PausedEndpoint record) except -1:
        """Wait for handlers of the same endpoint, which is paused or was."""
        delivery.state = QUEUED
        if delivery.call:
            self.handlers.calls[delivery.call] = delivery
        if record.line is None:
            record.line = deque()
        record.line.append(delivery)
        self.in_lanes += 1
        self.paused.in_lines += 1
        self.windows.on_less = self.wake
        return self.count_in(delivery)

    cdef int count_in(self, Delivery delivery) except -1:
        """Count what waits: in the window, or with its endpoint if that is paused."""
        if self.paused.count and not delivery.flags & NESTED and (
            self.paused.takes(delivery.endpoint.name, aside_size(delivery))
        ):
            delivery.aside = True
        else:
            self.windows.held[delivery.lane] += delivery.size
        return 0

    cdef int count_out(self, Delivery delivery) except -1:
        """It waits no more."""
        if delivery.aside:
            return self.paused.free(delivery.endpoint.name, aside_size(delivery))
        return self.windows.release(delivery.lane, delivery.size)

    cdef bint has_room(self, int lane) noexcept:
        """Whether a further asynchronous handler of a paused endpoint may begin."""
        return (
            self.paused.under_way <= MOST_UNDER_WAY
            and self.windows.under_way[lane] <= MOST_UNDER_WAY
        )

    cdef str refusal(self, Delivery delivery):
        """What is so full that a call is refused, or None."""
        cdef Endpoint endpoint = delivery.endpoint
        cdef EndpointRegistry registry = self.handlers.registry
        if 0 <= endpoint.max_waiting <= endpoint.queued:
            return (
                f"{endpoint.queued} messages and calls wait at endpoint "
                f"{endpoint.name!r}, and at most {endpoint.max_waiting} may"
            )
        if 0 <= registry.max_waiting <= registry.queued and (
            not delivery.flags & NESTED
        ):
            return (
                f"{registry.queued} messages and calls wait at the endpoints of this "
                f"node, and at most {registry.max_waiting} may"
            )
        return None

    cdef int refuse(self, Delivery delivery, str text) except -1:
        """Refuse a call or confirmed message that would have to wait."""
        if delivery.state == DONE:
            return 0
        delivery.state = DONE
        self.handlers.calls.pop(delivery.call, None)
        return self.handlers.refuse_busy(delivery.endpoint, delivery.call, text)

    cdef int wait_at_endpoint(self, Delivery delivery) except -1:
        """Wait for a full endpoint, in order over all links."""
        cdef Endpoint endpoint = delivery.endpoint
        cdef str text
        if delivery.call:
            text = self.refusal(delivery)
            if text is not None:
                return self.refuse(delivery, text)
            self.handlers.calls[delivery.call] = delivery
        delivery.state = QUEUED
        delivery.queue = self
        self.count_in(delivery)
        self.at_endpoints += 1
        endpoint.queued += 1
        self.handlers.registry.queued += 1
        if self.stalled is not None and endpoint in self.stalled:
            # It would pass those.
            self.stalled[endpoint].append(delivery)
        elif delivery.flags & NESTED:
            endpoint.nested.append(delivery)
        else:
            endpoint.waiting.append(delivery)
        return 0

    cdef bint blocked(self, Endpoint endpoint, int flags) except? True:
        """Whether what comes now has to wait at its endpoint."""
        return endpoint.most > 0 and (
            endpoint.full(flags & NESTED)
            or (self.stalled is not None and endpoint in self.stalled)
        )

    cdef bint stalls(self, Delivery delivery) except? True:
        """Whether it is not to begin now, for the peer does not read its replies."""
        cdef Endpoint endpoint = delivery.endpoint
        if not (delivery.call and self.outbox.crowded()) and (
            self.stalled is None or endpoint not in self.stalled
        ):
            return False
        if self.stalled is None:
            self.stalled = {}
        self.wait_for_room()
        self.stalled.setdefault(endpoint, deque()).append(delivery)
        return True

    cdef int wait_for_room(self) except -1:
        """Go on when the peer has read its replies."""
        self.outbox.on_room = self.wake
        return 0

    # --- what has waited --------------------------------------------------------------

    def wake(self):
        """Something is no longer in the way: `pump` soon, outside of what runs now."""
        if not self.scheduled and not self.closed:
            self.handlers.loop.call_soon(self.pump)
            self.scheduled = True

    def pump(self):
        """Begin what may begin of this link."""
        cdef HandlerContext context = self.handlers.registry.context
        cdef bint entered
        self.scheduled = False
        if self.closed:
            return
        entered = context.enter()
        try:
            self.run()
        except Exception as error:
            self.handlers.begin_failed(error)
        finally:
            if entered:
                context.leave()

    def admit(self, Endpoint endpoint not None):
        """There is room at a bounded endpoint: begin deliveries of any link."""
        cdef HandlerContext context = self.handlers.registry.context
        cdef bint entered = context.enter()
        try:
            self.run_endpoint(endpoint)
        finally:
            if entered:
                context.leave()

    cdef int run(self) except -1:
        if not self.outbox.crowded():
            self.outbox.on_room = None
            self.run_stalled()
        if not self.holding:
            self.run_held()
        self.run_lanes()
        if not self.closed:
            self.on_rest()
        return 0

    cdef int run_held(self) except -1:
        """Place what the link holds, as long as the peer reads its replies."""
        cdef Delivery delivery
        while self.held:
            if self.outbox.crowded():
                self.wait_for_room()
                return self.batches.hand_over()
            delivery = self.held.popleft()
            if delivery.endpoint is None:
                self.batches.hand_over()
                self.on_mark()
            elif delivery.state != DONE:
                self.place(
                    delivery.endpoint,
                    delivery.payload,
                    delivery.lane,
                    delivery.call,
                    delivery.flags,
                    delivery.extension,
                    delivery,
                )
        if self.held is not None:
            self.held = None
            self.handlers.held = False
            self.windows.open()
        return self.batches.hand_over()

    cdef int run_lanes(self) except -1:
        """Begin what waits for its lane, as far as there is room."""
        cdef Delivery delivery
        cdef int line
        for line in range(LANES):
            while self.in_lanes and self.lanes[line] and not self.closed:
                delivery = self.lanes[line][0]
                if delivery.call and self.outbox.crowded():
                    self.wait_for_room()
                    break
                if self.windows.under_way[delivery.lane] > MOST_UNDER_WAY:
                    break
                self.lanes[line].popleft()
                self.in_lanes -= 1
                try:
                    if delivery.state != DONE and self.blocked(
                        delivery.endpoint, delivery.flags
                    ):
                        self.wait_at_endpoint(delivery)
                    else:
                        self.start(delivery)
                finally:
                    self.windows.release(delivery.lane, delivery.size)
        if self.paused.in_lines:
            self.run_paused()
        if self.in_lanes == 0:
            self.windows.on_less = None
        return 0

    cdef int run_paused(self) except -1:
        """The same for what waits in lines of endpoints that are paused, or were."""
        cdef Delivery delivery
        cdef PausedEndpoint record
        cdef bint blocked
        for record in list(self.paused.by_name.values()):
            while record.line and not self.closed:
                delivery = record.line[0]
                if delivery.call and self.outbox.crowded():
                    self.wait_for_room()
                    break
                blocked = delivery.state != DONE and self.blocked(
                    delivery.endpoint, delivery.flags
                )
                if not blocked and delivery.state != DONE and (
                    delivery.endpoint.awaits and not self.has_room(delivery.lane)
                ):
                    break
                record.line.popleft()
                self.in_lanes -= 1
                self.paused.in_lines -= 1
                if not blocked:
                    try:
                        self.start(delivery)
                    finally:
                        self.count_out(delivery)
                    continue
                # There it is counted anew.
                self.count_out(delivery)
                delivery.aside = False
                self.wait_at_endpoint(delivery)
            self.paused.forget(record)
        return 0

    cdef int run_endpoint(self, Endpoint endpoint) except -1:
        cdef Delivery delivery
        cdef DeliveryQueue queue
        while True:
            if endpoint.nested and endpoint.running < endpoint.most + endpoint.lent:
                delivery = endpoint.nested.popleft()
            elif endpoint.waiting and endpoint.running < endpoint.most:
                delivery = endpoint.waiting.popleft()
            else:
                return 0
            queue = delivery.queue
            try:
                if queue.stalls(delivery):
                    continue
                queue.forget_waiting(delivery)
                try:
                    queue.start(delivery)
                finally:
                    queue.count_out(delivery)
                if not queue.closed:
                    queue.on_rest()
            except Exception as error:
                queue.handlers.begin_failed(error)

    cdef int forget_waiting(self, Delivery delivery) except -1:
        """It waits at its endpoint no more. One that was cancelled did not count."""
        self.at_endpoints -= 1
        delivery.queue = None
        if delivery.state != DONE:
            delivery.endpoint.queued -= 1
            self.handlers.registry.queued -= 1
        return 0

    cdef int run_stalled(self) except -1:
        """Have what stalled wait where it was, in front."""
        cdef Delivery delivery
        cdef Endpoint endpoint
        cdef dict stalled = self.stalled
        if stalled is None:
            return 0
        self.stalled = None
        for endpoint, deliveries in stalled.items():
            for delivery in reversed(deliveries):
                if delivery.flags & NESTED:
                    endpoint.nested.appendleft(delivery)
                else:
                    endpoint.waiting.appendleft(delivery)
        for endpoint in stalled:
            if not self.closed:
                self.run_endpoint(endpoint)
        return 0

    # --- another link, and the end ----------------------------------------------------

    cdef int hold_deliveries(self) except -1:
        """Hold all that comes until `release`."""
        self.holding = True
        if self.held is None:
            self.held = deque()
        self.handlers.held = self.windows.shut = True
        return 0

    cdef int release(self) except -1:
        """Begin what was held."""
        if self.holding:
            self.holding = False
            self.pump()
        return 0

    cdef bint mark(self) except? True:
        """Have `on_mark` called when all that is held now was placed. False: nothing
        is held."""
        if self.held is None:
            return False
        self.held.append(new_delivery(self.handlers, None, None, 0, 0, 0, None))
        return True

    cdef bint waits(self) noexcept:
        """Something has not begun."""
        return self.held is not None or self.in_lanes > 0 or self.at_endpoints > 0

    cdef int close(self) except -1:
        """The link has ended: nothing that waits will be handled."""
        cdef Endpoint endpoint
        cdef Delivery delivery
        cdef PausedEndpoint record
        self.closed = True
        self.windows.on_less = None
        if self.stalled is not None:
            for deliveries in self.stalled.values():
                for delivery in deliveries:
                    self.forget_waiting(delivery)
        self.held = self.stalled = None
        self.lanes = [None] * LANES
        self.in_lanes = self.paused.in_lines = 0
        for record in self.paused.by_name.values():
            record.line = None
        if self.at_endpoints:
            for endpoint in self.handlers.registry.by_name.values():
                if endpoint.most:
                    endpoint.waiting = self.others(endpoint.waiting)
                    endpoint.nested = self.others(endpoint.nested)
        self.at_endpoints = 0
        return 0

    def others(self, waiting):
        """What waits and came over other links."""
        cdef Delivery each
        left = deque()
        for each in waiting:
            if each.queue is not self:
                left.append(each)
            else:
                self.forget_waiting(each)
        return left
