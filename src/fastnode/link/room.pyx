"""Waiting for room in the queue of a link."""

from fastnode.link.link cimport Link
from fastnode.link.outbox cimport Outbox

from fastnode.errors import SendQueueFull


async def room(Link link not None, size_t size):
    """Wait until a payload of `size` bytes may be queued, and the node is not so full
    that whoever can wait should. Holds until the loop turns.

    Raises:
        LinkClosed: the link ended while waiting, or before.
        MessageTooLarge: larger than this node or the peer allows.
    """
    cdef Outbox outbox = link.outbox
    while is_full(outbox, size):
        outbox.check_loop()
        # Done when either is at its low-water mark, and from there on whenever there is
        # less: it may take an empty queue.
        waiter = outbox.loop.create_future()
        outbox.drainers.append(waiter)
        outbox.budget.enter(waiter)
        try:
            await waiter
        finally:
            outbox.budget.leave(waiter)
            if waiter in outbox.drainers:
                outbox.drainers.remove(waiter)


cdef bint is_full(Outbox outbox, size_t size) except -1:
    try:
        outbox.check(size)
    except SendQueueFull:
        return True
    return outbox.budget.used > outbox.budget.high
