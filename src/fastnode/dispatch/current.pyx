"""The message, deadline and peer of the handler that runs in this context.

Only asynchronous handlers are known, because each of them has a context of its own.
Tasks that a handler makes inherit its context. They belong to the handler until the
handler has ended.
"""

from fastnode.dispatch.endpoint cimport EndpointRegistry
from fastnode.dispatch.handler cimport Delivery, current

from fastnode.errors import CallTimeout, Side


def current_message():
    """Return the `Message` of the asynchronous handler that runs here, or None.

    Tasks that a handler makes see its message too, until the handler has ended. A plain
    handler gets its message as an argument only.
    """
    cdef Delivery delivery = current()
    return None if delivery is None else delivery.message


def inherited_timeout(timeout, peer):
    """Return the timeout of a call that is made here.

    The timeout is at most the time that the running handler has left.

    Args:
        timeout: seconds, or None.
        peer: the peer that is called. The error names it.

    Raises:
        CallTimeout: the handler has no time left. The call was not sent.
    """
    cdef Delivery delivery = current()
    cdef double left
    if delivery is None or delivery.deadline <= 0:
        return timeout
    left = delivery.deadline - <double>delivery.handlers.loop.time()
    if left <= 0:
        raise CallTimeout(
            "nothing was sent: the time of the handler that makes the call is over",
            peer=peer,
            side=Side.LOCAL,
            begun="no",
        )
    return left if timeout is None or timeout > left else timeout


def handler_peer(EndpointRegistry registry not None):
    """Return the peer whose message is handled in this context, or None.

    None is returned unless the handler is asynchronous, has not ended, and belongs to
    this node.
    """
    cdef Delivery delivery = current()
    if delivery is None or delivery.handlers.registry is not registry:
        return None
    return delivery.handlers.peer
