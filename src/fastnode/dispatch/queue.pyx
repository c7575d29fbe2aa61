"""Deliveries that cannot begin at once, and the only place that decides this.

How it works. `place` either begins a delivery or lets it wait. Three things can block a
delivery. They are checked in this order:

1. Its link. While the peer does not read the replies that it asked for, no delivery
   begins. While an older link with the peer has messages left, no delivery may overtake
   them. The link grants nothing meanwhile, so the window bounds the memory. Reading
   continues, so two nodes that do this to each other do not block each other.
2. Its lane. A window counts bytes, but a running handler needs a task even for an empty
   message. Without a bound, a window of empty messages would become 130 thousand tasks
   at once. Large and small messages of normal priority share a line, because they share
   an order.
3. Its endpoint, if the endpoint has a bound. The deliveries of all links of the node
   wait there in one line, and calls from handlers of peers wait in another line; see
   `fastnode.dispatch.handler`. If the turn of a delivery comes while its peer does not
   read its replies, the delivery stalls. Other deliveries of the line pass, and it goes
   back to the front later. Deliveries that wait for their lane or endpoint count
   against the window.

If an endpoint fills the window, `fastnode.dispatch.congestion` pauses it. Its messages
are *set aside*, so they do not block other messages any more. They wait in a line of
their endpoint for its handlers, instead of in the line of their lane.

An endpoint may refuse calls instead of letting them wait (`max_waiting`). Messages
without a waiting sender are never refused.

Two functions begin waiting deliveries: `pump` for a link, `admit` for an endpoint. The
loop or the end of a handler calls them, never user code. Both run in the node's own
context. An error in them ends the link of the delivery.
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

# The text of the error for a call to a batch endpoint.
cdef str NO_REPLY = (
    "this endpoint takes batches and replies to nothing: send to it "
    "(confirm=True waits until it was handed over), or call another one"
)


cdef inline int line_of(int lane) noexcept:
    """Return the lane in whose line a delivery waits."""
    return DATA_LANE if lane == BULK_LANE else lane


@cython.final
cdef class DeliveryQueue:
    """The deliveries of one link that have not begun."""

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
        """Begin a new message or call, or let it wait."""
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
        """Begin a delivery that its link does not block, or let it wait.

        Args:
            delivery: the delivery, if it has waited before; else None.
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
        """Do the same for an endpoint that is paused or has a line of its own."""
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
        """Call the handler, or add the message to a batch. Nothing blocks it."""
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
        """Begin a delivery that has waited, unless its caller cancelled it."""
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
        """Let the link hold a delivery. The link grants nothing meanwhile."""
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
        """Count a waiting delivery in the window, or with its paused endpoint."""
        if self.paused.count and not delivery.flags & NESTED and (
            self.paused.takes(delivery.endpoint.name, aside_size(delivery))
        ):
            delivery.aside = True
        else:
            self.windows.held[delivery.lane] += delivery.size
        return 0

    cdef int count_out(self, Delivery delivery) except -1:
        """Stop counting a delivery as waiting."""
        if delivery.aside:
            return self.paused.free(delivery.endpoint.name, aside_size(delivery))
        return self.windows.release(delivery.lane, delivery.size)

    cdef bint has_room(self, int lane) noexcept:
        """Return whether another async handler of a paused endpoint may begin."""
        return (
            self.paused.under_way <= MOST_UNDER_WAY
            and self.windows.under_way[lane] <= MOST_UNDER_WAY
        )

    cdef str refusal(self, Delivery delivery):
        """Return the text that says why a call is refused, or None."""
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
        """Wait for a full endpoint, in one line for all links."""
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
            # The delivery must not overtake the stalled ones.
            self.stalled[endpoint].append(delivery)
        elif delivery.flags & NESTED:
            endpoint.nested.append(delivery)
        else:
            endpoint.waiting.append(delivery)
        return 0

    cdef bint blocked(self, Endpoint endpoint, int flags) except? True:
        """Return whether a new delivery has to wait at its endpoint."""
        return endpoint.most > 0 and (
            endpoint.full(flags & NESTED)
            or (self.stalled is not None and endpoint in self.stalled)
        )

    cdef bint stalls(self, Delivery delivery) except? True:
        """Return whether a delivery stalls, because the peer does not read its replies.
        """
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
        """Continue when the peer has read its replies."""
        self.outbox.on_room = self.wake
        return 0

    # --- what has waited --------------------------------------------------------------

    def wake(self):
        """Schedule `pump`, because a delivery may not be blocked any more."""
        if not self.scheduled and not self.closed:
            self.handlers.loop.call_soon(self.pump)
            self.scheduled = True

    def pump(self):
        """Begin the deliveries of this link that may begin."""
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
        """Begin deliveries of all links at a bounded endpoint that has room."""
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
        """Place the held deliveries of the link, while the peer reads its replies."""
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
        """Begin deliveries that wait for their lane, while there is room."""
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
        """Do the same for lines of endpoints that are or were paused."""
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
                # The new line counts the delivery again.
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
        """Stop counting a delivery at its endpoint. A cancelled one did not count."""
        self.at_endpoints -= 1
        delivery.queue = None
        if delivery.state != DONE:
            delivery.endpoint.queued -= 1
            self.handlers.registry.queued -= 1
        return 0

    cdef int run_stalled(self) except -1:
        """Put stalled deliveries back to the front of their lines."""
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
        """Hold all new deliveries until `release`."""
        self.holding = True
        if self.held is None:
            self.held = deque()
        self.handlers.held = self.windows.shut = True
        return 0

    cdef int release(self) except -1:
        """Begin the held deliveries."""
        if self.holding:
            self.holding = False
            self.pump()
        return 0

    cdef bint mark(self) except? True:
        """Call `on_mark` when all deliveries that are held now have been placed.

        Returns:
            False if nothing is held.
        """
        if self.held is None:
            return False
        self.held.append(new_delivery(self.handlers, None, None, 0, 0, 0, None))
        return True

    cdef bint waits(self) noexcept:
        """Return whether a delivery has not begun."""
        return self.held is not None or self.in_lanes > 0 or self.at_endpoints > 0

    cdef int close(self) except -1:
        """Drop all waiting deliveries, because the link has ended."""
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
        """Return the waiting deliveries that came over other links."""
        cdef Delivery each
        left = deque()
        for each in waiting:
            if each.queue is not self:
                left.append(each)
            else:
                self.forget_waiting(each)
        return left
