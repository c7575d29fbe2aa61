"""The `SSL` behind an `ssl.SSLObject`.

As with contexts (see `fastnode.openssl.verification`) OpenSSL itself tells it: an
ex-data index has a `new_func` that is called with each new `SSL`, and `wrap` takes the
only one that was made on this thread while Python made its object. Then it is proven
to be that one: Python has put the address of the owner into it (its app data), it is
on the side that was asked for, and the settings of its `SSL_CTX` are those of the
context. What cannot be proven is not used.

The object owns the `SSL` and frees it: a `Handle` keeps the object.
"""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from fastnode.openssl.library cimport lib

import ssl
from threading import RLock

from fastnode.groups import canonical_group
from fastnode.openssl.verification import why_unavailable

cdef extern from *:
    """
    /* The SSL objects that OpenSSL made on this thread. */
    static __thread void *fastnode_ssl_made;
    static __thread int fastnode_ssl_made_count;
    """
    void *made "fastnode_ssl_made"
    int made_count "fastnode_ssl_made_count"

cdef enum:
    # openssl/crypto.h
    EX_INDEX_SSL = 0
    # openssl/ssl.h: SSL_get_app_data
    APP_DATA = 0
    # How often an object is made again because others appeared with it.
    ATTEMPTS = 5
    CTRL_GET_NEGOTIATED_GROUP = 134

# Why no SSL can be reached; None: it can. Unset before the first look.
cdef object reason = ...
cdef object looking = RLock()


@cython.final
cdef class Handle:
    """An `ssl.SSLObject` or `ssl.SSLSocket`, and the `SSL` that it owns.

    Made by `wrap` and `adopt`.
    """

    @property
    def group(self):
        """The name of the key-exchange group that was negotiated.

        None before the handshake is complete, and where OpenSSL is older than 3.0.
        """
        cdef long group
        cdef const char *name
        if lib.group_name == NULL or self.owner.version() is None:
            return None
        group = lib.ssl_ctrl(self.pointer, CTRL_GET_NEGOTIATED_GROUP, 0, NULL)
        if group <= 0:
            return None
        name = lib.group_name(self.pointer, <int>group)
        if name == NULL:
            return None
        return canonical_group(name.decode("ascii", "replace"))


def why_unreachable():
    """Why the `SSL` behind Python's objects cannot be reached; None where it can."""
    global reason
    if reason is ...:
        with looking:
            if reason is ...:
                reason = look()
    return reason


def wrap(
    context, *, bint server_side, server_name=None, incoming=None, outgoing=None
):
    """A new `SSLObject` and its `SSL`; None where that cannot be proven to be it.

    Args:
        context: an `ssl.SSLContext`; server_side, server_name: see
            `ssl.SSLContext.wrap_bio`.
        incoming, outgoing: its two `ssl.MemoryBIO`. Without them its BIOs are of no
            use, and the caller puts others under it.
    """
    def make():
        return context.wrap_bio(
            ssl.MemoryBIO() if incoming is None else incoming,
            ssl.MemoryBIO() if outgoing is None else outgoing,
            server_side=server_side,
            server_hostname=server_name,
        )

    return adopt(make, context, server_side=server_side, attempts=ATTEMPTS)


def adopt(make, context, *, bint server_side, int attempts=1):
    """Make an object of Python's `ssl` module, and find its `SSL`.

    Args:
        make: returns a new `ssl.SSLObject`, or a new `ssl.SSLSocket` that is
            connected.
        context: the context that `make` uses.
        server_side: whether it is a server.
        attempts: how often `make` may be called.

    Returns:
        A `Handle`; None where the `SSL` cannot be proven to be that of the object.
    """
    cdef Handle handle
    cdef int before, _attempt
    if why_unreachable() is not None:
        return None
    for _attempt in range(attempts):
        handle = Handle.__new__(Handle)
        before = made_count
        handle.ssl = make()
        # Finalizers may make objects of their own at any moment: then once more. What
        # they made may be gone already, and is not looked at.
        if made_count - before == 1:
            handle.pointer = made
            return handle if proven(handle, context, server_side) else None
    return None


cdef bint proven(Handle handle, context, bint server_side) except -1:
    cdef void *found
    handle.owner = getattr(handle.ssl, "_sslobj", None)
    if (
        handle.owner is None
        or lib.get_ssl_ex_data(handle.pointer, APP_DATA)
        != <void *><PyObject *>handle.owner
        or bool(lib.is_server(handle.pointer)) != server_side
    ):
        return False
    found = lib.get_ssl_ctx(handle.pointer)
    return (
        # SSL_VERIFY_NONE 0, _PEER 1, _FAIL_IF_NO_PEER_CERT 2
        lib.get_verify_mode(found) == (0, 1, 3)[context.verify_mode]
        and lib.get_options(found)
        == <uint64_t>(int(context.options) & 0xFFFFFFFFFFFFFFFF)
    )


cdef object look():
    """Find it for an object that is thrown away; returns why that fails, or None."""
    cdef int before = made_count
    cdef Handle trial = Handle.__new__(Handle)
    why = why_unavailable()
    if why is not None:
        return why
    if lib.get_ex_new_index(EX_INDEX_SSL, 0, NULL, remember, NULL, NULL) < 0:
        return "it gives no ex-data index for connections"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    before = made_count
    trial.ssl = context.wrap_bio(
        ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost"
    )
    if made_count == before:
        return "it does not tell of new connections"
    trial.pointer = made
    if made_count - before == 1 and not proven(trial, context, False):
        return "the connection that it made is not the one that Python has"
    return None


cdef void remember(
    void *parent, void *ptr, void *ad, int idx, long argl, void *argp
) noexcept nogil:
    global made, made_count
    made = parent
    made_count += 1
