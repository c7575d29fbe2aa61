"""The handler that runs here: its message, its time and its peer.

Only an asynchronous handler is known, for it has a context of its own. Tasks that it
makes inherit the context. They belong to the handler until it has ended.
"""

from fastnode.dispatch.endpoint cimport EndpointRegistry
from fastnode.dispatch.handler cimport Delivery, current

from fastnode.errors import CallTimeout, Side


def current_message():
    """Return the `Message` whose asynchronous handler runs here, or None.

    Tasks that a handler makes see its message as well, until the handler has ended. A
    plain handler has its message as argument only.
    """
    cdef Delivery delivery = current()
    return None if delivery is None else delivery.message


def inherited_timeout(timeout, peer):
    """Return the timeout of a call that is made here: no more than the handler has
    left.

    Args:
        timeout: seconds, or None.
        peer: who is called, for the error.

    Raises:
        CallTimeout: nothing is left. Nothing was sent.
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
    """Return the peer whose message is being handled in this context, if the handler
    is asynchronous, has not ended, and belongs to this node; else None."""
    cdef Delivery delivery = current()
    if delivery is None or delivery.handlers.registry is not registry:
        return None
    return delivery.handlers.peer
