"""The answers to calls: the reply or the error of a handler."""

from libc.stdint cimport uint32_t

from fastnode.sending.outbox cimport Outbox, as_bytes
from fastnode.wire.extension cimport make_block, status_block

import logging
from asyncio import CancelledError

from fastnode.dispatch.reply import Reply
from fastnode.dispatch.user_code import name_of, text_of
from fastnode.errors import CallError
from fastnode.loggers import fields
from fastnode.wire.call_error import HANDLER_RAISED

log = logging.getLogger("fastnode.link")


cdef int send_reply(Outbox outbox, uint32_t call, object result) except -1:
    """Send the return value of a handler. None is an empty reply."""
    cdef bytes block = None
    if isinstance(result, Reply):
        if outbox.extensions:
            block = make_block(False, None, 1, result.metadata)
        result = result.payload
        if block is not None:
            return outbox.reply_with(call, as_bytes(result), block)
    if result is None:
        return outbox.reply(call, b"")
    if isinstance(result, (bytes, bytearray, memoryview)):
        return outbox.reply(call, as_bytes(result))
    raise TypeError(
        f"the handler returned {type(result).__name__}; a reply is bytes, a Reply "
        f"or None"
    )


cdef int send_error(Outbox outbox, uint32_t call, object error, str node) except -1:
    """Answer a call with the exception of its handler: the type's name and the text.

    Args:
        node: the name of this node, for the log.
    """
    cdef str text = text_of(error)
    if not text and isinstance(error, CancelledError):
        text = "it was cancelled"
    if outbox.extensions and isinstance(error, CallError):
        try:
            block = status_block(error.code, error.details)
            text = str(error.message)
        except Exception:
            # User code has set an attribute of the error to a value that cannot be
            # sent.
            log.warning(
                "a CallError cannot be sent as it is",
                exc_info=True,
                extra=fields("call_error_unusable", node=node, peer=outbox.peer),
            )
        else:
            outbox.count_error(error.code)
            return outbox.refuse_with(
                call, HANDLER_RAISED, name_of(error), text, block
            )
    return outbox.refuse(call, HANDLER_RAISED, name_of(error), text)
