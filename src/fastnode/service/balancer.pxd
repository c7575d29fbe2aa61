from libc.stdint cimport uint64_t

from fastnode.link.link cimport Link


cdef class Candidate:
    # Which instance it is: the node name and the instance id of the peer. `key` is a
    # number made of both, the same in every process.
    cdef readonly str name
    cdef readonly str instance
    cdef readonly uint64_t key

    # The weight of its target: 1.0 is usual, 0.0 takes work only if all others are 0 too.
    cdef public double weight
    # When it got its first work, seconds. Until `warm_at` it gets less than its share.
    cdef double came_at
    cdef double warm_at
    # Until then it is passed over, if there is another one: it said that it is busy.
    cdef public double busy_until
    # For the weighted policy: how much it is behind its share.
    cdef double behind

    # Calls under way: 0 <= outstanding.
    cdef public Py_ssize_t outstanding
    # What was sent to it, over all its links; and how much of that failed by its fault.
    cdef public uint64_t calls
    cdef public uint64_t failures
    # Failures since the last success.
    cdef public Py_ssize_t consecutive

    # How the service reaches it. The balancer does not look at it.
    cdef public Link link
    cdef public object address
    cdef public object last_error

    cdef double load(self, double now) noexcept
    cdef double share(self, double now) noexcept


cdef class Balancer:
    cdef readonly str policy
    cdef int chooser
    # The state of a xorshift64* generator, never 0.
    cdef uint64_t random
    cdef size_t turn

    cdef Candidate choose(self, list candidates, double now)
    cdef Candidate choose_by_key(self, list candidates, bytes key, double now)
    cdef Candidate draw(self, list candidates, double now, Candidate other)
    cdef Candidate least_loaded(self, list candidates, double now)
    cdef Candidate next_in_turn(self, list candidates, double now)
    cdef Candidate most_behind(self, list candidates, double now)
    cdef uint64_t next_random(self) noexcept
