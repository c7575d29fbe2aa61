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
        # It may take an empty queue.
        await outbox.less()


cdef bint is_full(Outbox outbox, size_t size) except -1:
    try:
        outbox.check(size)
    except SendQueueFull:
        return True
    return outbox.budget.used > outbox.budget.high
