"""A BIO of ours under an SSL: reads memory that is lent to it, writes into `bytes`.

OpenSSL's own memory BIO copies what it is given, and keeps the size that it once had.

Rules for whoever edits this. Its functions are called by OpenSSL, with the GIL or
without (Python lets go of it in a handshake): they work on `Ends` only, and what they
need of Python they do under `with gil`, by the C API alone. OpenSSL may have the BIO
longer than we have `Bio`: then it finds no `Ends` behind it, and nothing to read.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.string cimport memcpy

from fastnode.openssl.library cimport lib

cdef extern from "Python.h":
    # By pointers: one reference, which we count ourselves.
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size)
    int resize_bytes "_PyBytes_Resize"(PyObject **made, Py_ssize_t size)
    char *data_of "PyBytes_AS_STRING"(PyObject *made) nogil
    void Py_XDECREF(PyObject *made)

cdef enum:
    # openssl/bio.h
    TYPE_SOURCE_SINK = 0x0400
    FLAG_READ = 0x01
    FLAGS_RWS = 0x07
    FLAG_RETRY = 0x08
    CTRL_EOF = 2
    CTRL_PENDING = 10
    CTRL_FLUSH = 11
    # Room for an alert or an answer.
    LEAST_OUT = 128
    # What the last flush took, and a little more, is taken at once: up to this, which
    # malloc does not ask the system for each time.
    MOST_AT_ONCE = 100 << 10

# The BIO_METHOD: made once, never freed.
cdef void *method = NULL


@cython.final
cdef class Bio:
    """Both directions of one connection. The library is loaded before one is made."""

    def __cinit__(self):
        global method
        if method == NULL:
            method = make_method()
        self.pointer = lib.bio_new(method)
        if self.pointer == NULL:
            raise MemoryError()
        lib.bio_set_data(self.pointer, &self.ends)

    def __dealloc__(self):
        if self.pointer != NULL:
            lib.bio_set_data(self.pointer, NULL)
            lib.bio_free(self.pointer)
        Py_XDECREF(self.ends.out)

    cdef int put_under(self, void *ssl) except -1:
        """Give it to an SSL, for both directions, in place of what it has."""
        if not lib.bio_up_ref(self.pointer):
            raise MemoryError()
        lib.set_rbio(ssl, self.pointer)
        if not lib.bio_up_ref(self.pointer):
            raise MemoryError()
        lib.set_wbio(ssl, self.pointer)
        return 0

    cdef int lend(self, const unsigned char *data, size_t size) except -1:
        """Something to read, borrowed until `keep` or `drop`."""
        cdef Ends *ends = &self.ends
        cdef bytes kept
        if ends.left == 0:
            self.kept = None
            ends.at = data
            ends.left = size
        elif self.kept is None and ends.at + ends.left == data:
            # The next part of the same memory.
            ends.left += size
        else:
            kept = (<const char *>ends.at)[:ends.left] + (<const char *>data)[:size]
            self.own(kept, ends.left + size)
        return 0

    cdef int keep(self) except -1:
        """Copy what was not read: its memory goes back to who lent it.

        If memory runs out, what was not read is dropped: the memory will hold bytes of
        other connections. The stream is cut then, and the connection has to end.
        """
        if self.ends.left == 0:
            return self.drop()
        if self.kept is None:
            try:
                self.own(
                    (<const char *>self.ends.at)[:self.ends.left], self.ends.left
                )
            except MemoryError:
                self.drop()
                raise
        return 0

    cdef int own(self, bytes kept, size_t size) except -1:
        self.kept = kept
        self.ends.at = <const unsigned char *>PyBytes_AS_STRING(kept)
        self.ends.left = size
        return 0

    cdef int drop(self) except -1:
        """What was not read never will be."""
        self.ends.at = NULL
        self.ends.left = 0
        self.kept = None
        return 0

    cdef bytes take(self):
        """What was written, or None; it is taken out."""
        cdef PyObject *made = self.ends.out
        cdef size_t used = self.ends.used
        cdef bytes taken
        if used == 0:
            return None
        self.ends.out = NULL
        self.ends.room = self.ends.used = 0
        self.ends.before = used
        if resize_bytes(&made, <Py_ssize_t>used) < 0:
            raise MemoryError()
        taken = <bytes>made
        Py_XDECREF(made)
        return taken


cdef void *make_method() except NULL:
    cdef int number = lib.bio_new_index()
    cdef void *made = NULL
    if number != -1:
        made = lib.bio_meth_new(number | TYPE_SOURCE_SINK, b"fastnode")
    if (
        made == NULL
        or not lib.bio_meth_set_read(made, bio_read)
        or not lib.bio_meth_set_write(made, bio_write)
        or not lib.bio_meth_set_ctrl(made, bio_ctrl)
    ):
        raise MemoryError()
    return made


# --- inside OpenSSL -----------------------------------------------------------


cdef int bio_read(void *bio, char *into, size_t size, size_t *got) noexcept nogil:
    """1; or -1 where there is nothing yet, and 0 where nothing will come."""
    cdef Ends *ends = <Ends *>lib.bio_get_data(bio)
    lib.bio_clear_flags(bio, FLAGS_RWS | FLAG_RETRY)
    got[0] = 0
    if ends == NULL:
        return 0
    if ends.left == 0:
        if ends.ended:
            return 0
        lib.bio_set_flags(bio, FLAG_READ | FLAG_RETRY)
        return -1
    size = min(size, ends.left)
    memcpy(into, ends.at, size)
    ends.at += size
    ends.left -= size
    got[0] = size
    return 1


cdef int bio_write(
    void *bio, const char *data, size_t size, size_t *taken
) noexcept nogil:
    """1; or -1 where there is no memory."""
    cdef Ends *ends = <Ends *>lib.bio_get_data(bio)
    cdef int grown
    lib.bio_clear_flags(bio, FLAGS_RWS | FLAG_RETRY)
    taken[0] = 0
    if ends == NULL:
        return -1
    if size > ends.room - ends.used:
        with gil:
            grown = grow(ends, size)
        if not grown:
            return -1
    memcpy(data_of(ends.out) + ends.used, data, size)
    ends.used += size
    taken[0] = size
    return 1


cdef bint grow(Ends *ends, size_t size) noexcept:
    """Make room for `size` bytes more; False where there is no memory."""
    cdef size_t room = max(ends.used + size, ends.room + ends.room // 2)
    cdef size_t before = ends.before + ends.before // 16
    if ends.out == NULL:
        room = max(room, min(before, <size_t>MOST_AT_ONCE), <size_t>LEAST_OUT)
        ends.out = new_bytes(NULL, <Py_ssize_t>room)
    else:
        resize_bytes(&ends.out, <Py_ssize_t>room)
    if ends.out == NULL:
        PyErr_Clear()
        ends.room = ends.used = 0
        return False
    ends.room = room
    return True


cdef long bio_ctrl(void *bio, int command, long number, void *arg) noexcept nogil:
    cdef Ends *ends = <Ends *>lib.bio_get_data(bio)
    if command == CTRL_FLUSH:
        return 1
    if command == CTRL_EOF:
        return ends == NULL or ends.left == 0
    if command == CTRL_PENDING and ends != NULL:
        return <long>ends.left
    return 0
