"""Handlers at work: what they return is replied, what they raise is told or logged.

What an asynchronous handler has not finished counts against the peer's window.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling, new_handling
from fastnode.link.outbox cimport Outbox, as_bytes
from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport ERROR

import logging
from asyncio import CancelledError
from contextvars import copy_context

from fastnode.limits import MAX_EARLY_CANCELS
from fastnode.link.calls import HANDLER_RAISED, REPLY_TOO_LARGE, encode_error
from fastnode.link.user_code import end_program, is_cancelled, name_of, text_of

log = logging.getLogger("fastnode.link")

cdef Py_ssize_t MOST_EARLY_CANCELS = MAX_EARLY_CANCELS


cdef class HandlerTasks:
    """The handlers of one link that are under way, and the calls that they answer."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Windows windows not None,
    ):
        self.loop = loop
        self.registry = registry
        self.outbox = outbox
        self.windows = windows
        self.context = copy_context()
        self.tasks = {}
        self.calls = {}
        self.early_cancels = set()

    def set_peer(self, peer):
        """Who sends: the `sender` of all messages."""
        self.peer = peer

    # --- replies ----------------------------------------------------------------

    cdef int reply(self, uint32_t call, object result) except -1:
        """Send what a handler returned; None is an empty reply."""
        cdef bytes payload
        if PyBytes_CheckExact(result):
            payload = <bytes>result
        elif result is None:
            payload = b""
        elif isinstance(result, (bytes, bytearray, memoryview)):
            payload = as_bytes(result)
        else:
            raise TypeError(
                f"the handler returned {type(result).__name__}; a reply is bytes or "
                "None"
            )
        if <uint64_t>PyBytes_GET_SIZE(payload) > self.outbox.max_message:
            return self.refuse(
                call,
                REPLY_TOO_LARGE,
                "MessageTooLarge",
                f"it has {len(payload)} bytes, the caller takes "
                f"{self.outbox.max_message}",
            )
        return self.outbox.reply(call, payload)

    cdef int refuse(self, uint32_t call, int code, str name, str text) except -1:
        return self.outbox.frame(ERROR, 0, encode_error(call, code, name, text))

    cdef int refuse_for(self, uint32_t call, object error) except -1:
        """Answer a call with what its handler raised: the type's name and the text."""
        return self.refuse(call, HANDLER_RAISED, name_of(error), text_of(error))

    # --- asynchronous handlers ------------------------------------------------

    cdef Handling start(
        self,
        object awaitable,
        object number,
        Endpoint endpoint,
        size_t size,
        int lane,
    ):
        """Run what a handler returned in a task; `number` is the call that it answers.
        """
        cdef Handling handling = new_handling(
            self, awaitable, number, endpoint, size, lane
        )
        if number is not None:
            self.calls[number] = handling
        try:
            task = handling.begin(self.loop)
        except BaseException:
            self.calls.pop(number, None)
            handling.finish()
            handling.close()
            raise
        if handling.done:
            return handling
        self.tasks[handling] = task
        if number is not None and number not in self.calls:
            # It has begun, and its caller gave up meanwhile.
            task.cancel()
        return handling

    cdef int end(self, Handling handling, object result, object error) except -1:
        cdef object number = handling.number
        cdef Endpoint endpoint = handling.endpoint
        try:
            if number is not None and self.calls.pop(number, None) is not None:
                self.answer(endpoint, number, result, error)
            elif error is not None and not is_cancelled(error):
                self.handler_failed(endpoint, error)
        finally:
            if endpoint.most or endpoint.batch or self.on_idle is not None:
                # What follows is nothing for the task and the context of this handler.
                self.loop.call_soon(self.go_past, handling, context=self.context)
            else:
                self.free_of(handling)
        return 0

    cdef int answer(
        self, Endpoint endpoint, uint32_t call, object result, object error
    ) except -1:
        """Reply with what a handler returned or raised."""
        if error is None:
            try:
                return self.reply(call, result)
            except BaseException as wrong:
                error = wrong
        if not is_cancelled(error):
            self.handler_failed(endpoint, error)
        if isinstance(error, CancelledError):
            text = text_of(error) or "it was cancelled"
            return self.refuse(call, HANDLER_RAISED, name_of(error), text)
        return self.refuse_for(call, error)

    cdef int free_of(self, Handling handling) except -1:
        """A handler has ended: what it held is free."""
        cdef bytes payload = handling.payload
        self.tasks.pop(handling, None)
        if payload is not None:
            handling.payload = None
            self.outbox.pool.spares.put(payload)
        return handling.finish()

    def go_past(self, Handling handling not None):
        """A handler has ended that something waits for."""
        self.free_of(handling)
        if handling.batch is not None:
            self.batch_done(handling.batch)
        elif handling.endpoint.most:
            self.admit(handling.endpoint)
        self.rest()

    cdef int cancel(self, uint32_t call) except -1:
        """The caller gave up: a handler that is still at it is cancelled, one that
        has not begun never does."""
        if call in self.calls:
            self.cancel_task(self.calls.pop(call))
        elif (
            # Numbers ascend, modulo 2**32: this call is still on its way.
            <int32_t>(call - self.last_call) > 0
            and len(self.early_cancels) < MOST_EARLY_CANCELS
        ):
            self.early_cancels.add(call)
        return 0

    cdef int cancel_task(self, object handling) except -1:
        """Cancel a handler; None: it has not begun."""
        cdef object task = self.tasks.get(handling)
        if task is not None:
            task.cancel()
        return 0

    def stop(self):
        """Cancel the handlers that are under way; returns their tasks."""
        cdef list tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        return tasks

    cdef bint busy(self) noexcept:
        """Something that was received is not handled yet."""
        return bool(self.tasks)

    cdef int rest(self) except -1:
        """Tell who waits for it that nothing is left to do."""
        if self.on_idle is not None and not self.busy():
            self.on_idle()
        return 0

    # --- errors -----------------------------------------------------------------

    cdef int handler_failed(self, Endpoint endpoint, object error) except -1:
        """A handler raised: its caller is told no traceback, the sender of a one-way
        message nothing, so log it, but not each of the many that a peer can cause."""
        cdef str name = "" if endpoint.invented else endpoint.name
        cdef str kind = name_of(error)
        self.handler_errors += 1
        try:
            self.registry.limited.say(
                logging.ERROR,
                f"{kind} of {name}",
                "the handler of %r raised on a message from %s",
                endpoint.name,
                self.peer.name,
                error=error,
            )
        except BaseException:
            # What shows the exception calls code of the user too.
            log.error("the handler of %r raised %s", endpoint.name, kind)
        end_program(error)
        return 0

    # --- what a subclass does with it --------------------------------------------

    cdef int batch_done(self, object batch) except -1:
        """The handler of a batch has finished."""
        raise NotImplementedError
