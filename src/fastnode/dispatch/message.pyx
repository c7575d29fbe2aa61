"""The message that a handler gets."""

cimport cython
from cpython.object cimport PyObject, PyTypeObject

from fastnode.wire.extension cimport NO_METADATA, Extension

import os
from asyncio import get_running_loop
from time import monotonic

from fastnode.wire.extension import decode, encode

cdef extern from *:
    """
    #include <structmember.h>
    static PyMemberDef fastnode_fields[] = {
        {"payload", T_OBJECT_EX, 0, READONLY, "bytes: the handler may keep it"},
        {"sender", T_OBJECT_EX, 0, READONLY, "the Peer that sent it"},
        {"endpoint", T_OBJECT_EX, 0, READONLY, "the endpoint that it was sent to"},
    };
    """
    ctypedef struct PyMemberDef:
        const char *name
        Py_ssize_t offset
    PyMemberDef *FIELDS "fastnode_fields"
    object PyDescr_NewMember(PyTypeObject *type, PyMemberDef *member)
    void PyType_Modified(PyTypeObject *type)


@cython.final
@cython.no_gc  # its fields cannot refer back to it
@cython.freelist(1024)  # a full batch
cdef class Message:
    """A message as its handler sees it.

    Args:
        payload: the bytes that were sent.
        sender: the `Peer` that sent the message.
        endpoint: the name of the endpoint that the message was sent to.
        metadata: the metadata, as for `Link.send`. Use it in tests of handlers.

    Attributes:
        payload: a `bytes` object of its own. The handler may keep it.
        sender: same as the argument.
        endpoint: same as the argument.
    """

    def __init__(
        self,
        bytes payload not None,
        sender,
        str endpoint not None,
        *,
        metadata=None,
    ):
        self.payload = payload
        self.sender = sender
        self.endpoint = endpoint
        if metadata is not None:
            self.extension = decode(encode(metadata=metadata))

    @property
    def metadata(self):
        """The metadata of the sender: a read-only mapping of `str` to `str`.

        The names are in lower case. The mapping is empty if the sender gave none.
        """
        if self.extension is None or self.extension.metadata is None:
            return NO_METADATA
        return self.extension.metadata

    @property
    def deadline(self):
        """The time at which the caller stops waiting, or None.

        It is a time of the event loop (``loop.time()``). One-way messages have no
        deadline.
        """
        if self.extension is None or self.extension.deadline <= 0:
            return None
        return self.extension.deadline

    @property
    def time_left(self):
        """The seconds until the deadline, at least 0; None if there is no deadline."""
        if self.extension is None or self.extension.deadline <= 0:
            return None
        try:
            now = get_running_loop().time()
        except RuntimeError:
            # The message is used in another thread, which has no loop. Event loops use
            # the same clock.
            now = monotonic()
        return max(self.extension.deadline - now, 0.0)

    @property
    def id(self):
        """The id of the request, 32 hexadecimal digits.

        All attempts of one request have the same id. A message that was sent without an
        id gets one when this attribute is first read.
        """
        if self.extension is None:
            self.extension = Extension.__new__(Extension)
        if self.extension.request_id is None:
            self.extension.request_id = os.urandom(16)
        return self.extension.request_id.hex()

    @property
    def attempt(self):
        """The number of the attempt, from 1."""
        return 1 if self.extension is None else self.extension.attempt

    def __repr__(self):
        return (
            f"<Message of {len(self.payload)} bytes to {self.endpoint!r} "
            f"from {self.sender.name}>"
        )


cdef int make_fields_slots() except -1:
    """Let Python read the fields in the same way as ``__slots__``.

    This takes a quarter of the time of Cython's properties.
    """
    cdef object sender = object()
    cdef object message = Message(b"payload", sender, "endpoint")
    cdef tuple values = (message.payload, sender, message.endpoint)
    cdef PyTypeObject *type = <PyTypeObject *>Message
    cdef PyObject **words = <PyObject **>(<PyObject *>message)
    cdef Py_ssize_t i, at
    for i in range(len(values)):
        at = <Py_ssize_t>(sizeof(PyObject) // sizeof(void *))
        # Find the offset of the field in the object. All fields have different values.
        while words[at] != <PyObject *>values[i]:
            at += 1
            assert at * <Py_ssize_t>sizeof(void *) < type.tp_basicsize
        FIELDS[i].offset = at * <Py_ssize_t>sizeof(void *)
        (<dict>type.tp_dict)[FIELDS[i].name.decode()] = PyDescr_NewMember(
            type, &FIELDS[i]
        )
    PyType_Modified(type)
    return 0


make_fields_slots()


cdef Message make_message(bytes payload, object sender, str endpoint):
    cdef Message message = Message.__new__(Message)
    message.payload = payload
    message.sender = sender
    message.endpoint = endpoint
    return message
