"""What a handler is given."""

cimport cython


@cython.final
@cython.no_gc  # its fields cannot refer back to it
@cython.freelist(256)  # more than one loop turn usually keeps alive
cdef class Message:
    """A message as its handler sees it.

    Attributes:
        payload: a `bytes` object of its own; the handler may keep it.
        sender: the `Peer` that sent it.
        endpoint: the name of the endpoint it was sent to.
    """

    def __init__(self, bytes payload not None, sender, str endpoint not None):
        self.payload = payload
        self.sender = sender
        self.endpoint = endpoint

    def __repr__(self):
        return (
            f"<Message of {len(self.payload)} bytes to {self.endpoint!r} "
            f"from {self.sender.name}>"
        )


cdef Message make_message(bytes payload, object sender, str endpoint):
    cdef Message message = Message.__new__(Message)
    message.payload = payload
    message.sender = sender
    message.endpoint = endpoint
    return message
