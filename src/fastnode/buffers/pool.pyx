"""The slabs of a node: taken, released, bounded, trimmed when idle."""

cimport cython
from fastnode.buffers.slab cimport DEBUG, Slab, make_slab
from fastnode.buffers.spares cimport Spares

from fastnode.limits import POOL_CEILING_BYTES

cdef extern from "Python.h":
    int append "PyList_Append" (list items, object item) noexcept
    void PyErr_Clear() noexcept

# Size classes. 4 KiB holds what a link keeps between reads, 16 KiB one TLS record,
# 64 KiB one flush; 256 KiB is for callers with large records of their own.
cdef enum:
    CLASSES = 4

cdef size_t[CLASSES] CLASS_BYTES = [4 << 10, 16 << 10, 64 << 10, 256 << 10]

# Taken slabs of all pools of this process: what leak checks look at.
cdef Py_ssize_t taken_slabs = 0


class PoolExhausted(MemoryError):
    """The pool is at its ceiling."""


@cython.final
cdef class BufferPool:
    """Slabs in size classes of 4, 16, 64 and 256 KiB.

    Not thread-safe: a pool belongs to one node and so to one loop.

    Args:
        ceiling: bytes of all slabs together, free or taken.
    """

    def __init__(self, size_t ceiling=POOL_CEILING_BYTES):
        cdef int i
        self.spares = Spares()
        self.free = [[] for _ in range(CLASSES)]
        self.ceiling = ceiling
        for i in range(CLASSES):
            self.idle[i] = 0

    def take(self, size_t size):
        """A slab of at least `size` bytes, owned by the caller until `release`.

        Its content is whatever was there before.

        Raises:
            PoolExhausted: the pool would grow beyond its ceiling.
        """
        return self.get(size)

    def release(self, Slab slab not None):
        """Give a slab back. It must not be touched afterwards.

        Raises:
            ValueError: it was released before.
            BufferError: a view of it is alive.
        """
        self.put(slab)

    def trim(self):
        """Free the slabs that nobody has needed since the last trim.

        Returns the number of bytes that went back to the system.
        """
        cdef int i
        cdef Slab slab
        cdef list free
        cdef size_t before = self.held
        for i in range(CLASSES):
            free = <list>self.free[i]
            while self.idle[i] > 0:
                slab = <Slab>free.pop(0)
                self.held -= slab.capacity
                self.idle[i] -= 1
            self.idle[i] = len(free)
        return before - self.held

    cdef Slab get(self, size_t size):
        global taken_slabs
        cdef int i = 0
        cdef list free
        cdef Slab slab
        while i < CLASSES and CLASS_BYTES[i] < size:
            i += 1
        if i == CLASSES:
            slab = self.make(size, -1)
        else:
            free = <list>self.free[i]
            if free:
                slab = <Slab>free.pop()
                if len(free) < self.idle[i]:
                    self.idle[i] = len(free)
                if DEBUG:
                    assert slab.poisoned(), "a released slab was written to"
            else:
                slab = self.make(CLASS_BYTES[i], i)
        slab.users = 0
        slab.taken = True
        self.outstanding += 1
        taken_slabs += 1
        return slab

    cdef Slab make(self, size_t size, int size_class):
        cdef Slab slab
        # Unsigned arithmetic: held <= ceiling, so the difference cannot wrap.
        if size > self.ceiling - self.held:
            raise PoolExhausted(
                f"the pool holds {self.held} of at most {self.ceiling} bytes and "
                f"{size} more were asked for"
            )
        slab = make_slab(size, size_class)
        self.held += size
        return slab

    cdef int put(self, Slab slab) except -1:
        global taken_slabs
        if not slab.taken:
            raise ValueError("this slab was released before")
        if slab.exports:
            raise BufferError("a view of this slab is alive")
        slab.taken = False
        self.outstanding -= 1
        taken_slabs -= 1
        if slab.size_class < 0:
            self.held -= slab.capacity
        else:
            if DEBUG:
                slab.poison()
            if append(<list>self.free[slab.size_class], slab) < 0:
                # There is no memory for a longer list. The slab is freed, and its
                # caller, who has just lost a reason to fail, goes on.
                PyErr_Clear()
                self.held -= slab.capacity
        return 0


def live_slabs():
    """How many slabs of all pools of this process are taken."""
    return taken_slabs
