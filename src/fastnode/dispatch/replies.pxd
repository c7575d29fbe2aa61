from libc.stdint cimport uint32_t

from fastnode.sending.outbox cimport Outbox


cdef int send_reply(Outbox outbox, uint32_t call, object result) except -1
cdef int send_error(Outbox outbox, uint32_t call, object error, str node) except -1
