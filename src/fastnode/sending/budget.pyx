"""What all send queues of a node may hold together.

Each outbox adds and subtracts whenever its queue has changed. Replies and control
frames do not count.
"""

cimport cython

from fastnode.limits import NODE_QUEUE_BYTES


@cython.final
cdef class QueueBudget:
    """Counts the queued bytes of a node's links.

    Args:
        most: the ceiling, bytes.
    """

    def __init__(self, size_t most=NODE_QUEUE_BYTES):
        self.most = most
        self.high = most - most // 4
        self.waiters = []

    cdef int shrink(self, size_t size) except -1:
        """So many bytes are not queued any more."""
        cdef list waiters
        self.used -= size
        # Not lower: peers that stand still may keep it there for ever.
        if self.used <= self.high and self.waiters:
            waiters = self.waiters
            self.waiters = []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        return 0

    @property
    def crowded(self):
        """Whoever can wait should."""
        return self.used > self.high

    def enter(self, waiter):
        """Have a future done when there is room again."""
        self.waiters.append(waiter)

    def leave(self, waiter):
        """Nobody waits for this future any more."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
