"""Handlers at work: what they return is replied, what they raise is told or logged.

What an asynchronous handler has not finished counts against the peer's window.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.link.handling cimport Handling
from fastnode.link.outbox cimport Outbox, as_bytes
from fastnode.link.windows cimport Windows
from fastnode.wire.frame cimport ERROR

import logging
from asyncio import CancelledError
from collections.abc import Coroutine

from fastnode.limits import MAX_EARLY_CANCELS
from fastnode.link.calls import HANDLER_RAISED, REPLY_TOO_LARGE, encode_error

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
        cdef Handling handling = Handling(
            self.windows, endpoint, self.admit, lane, size
        )
        task = self.loop.create_task(self.run(awaitable, number, handling))
        self.tasks[task] = handling, awaitable
        task.add_done_callback(self.finished)
        if number is not None:
            self.calls[number] = task
        return handling

    async def run(self, awaitable, number, Handling handling):
        """One asynchronous handler, to its end."""
        handling.enter()
        try:
            result = await awaitable
            if number is not None and self.calls.pop(number, None) is not None:
                self.reply(number, result)
        except CancelledError:
            if number is not None and self.calls.pop(number, None) is not None:
                self.refuse(
                    number, HANDLER_RAISED, "CancelledError", "it was cancelled"
                )
            raise
        except Exception as error:
            self.handler_failed(handling.endpoint, error)
            if number is not None:
                self.calls.pop(number, None)
                self.refuse(number, HANDLER_RAISED, type(error).__name__, str(error))

    def finished(self, task):
        """A handler's task is done, even if it was cancelled before it began."""
        cdef Handling handling
        handling, awaitable = self.tasks.pop(task)
        if task.cancelled() and isinstance(awaitable, Coroutine):
            # One that never began would complain that nobody awaited it.
            awaitable.close()
        handling.finish()
        if handling.batch is not None:
            self.batch_done(handling.batch)
        elif handling.endpoint.most:
            self.admit(handling.endpoint)
        self.rest()

    cdef int cancel(self, uint32_t call) except -1:
        """The caller gave up: a handler that is still at it is cancelled, one that
        has not begun never does."""
        cdef object task
        if call in self.calls:
            task = self.calls.pop(call)
            if task is not None:
                task.cancel()
        elif (
            # Numbers ascend, modulo 2**32: this call is still on its way.
            <int32_t>(call - self.last_call) > 0
            and len(self.early_cancels) < MOST_EARLY_CANCELS
        ):
            self.early_cancels.add(call)
        return 0

    def stop(self):
        """Cancel the handlers that are under way; returns their tasks."""
        for task in self.tasks:
            task.cancel()
        return list(self.tasks)

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
        self.handler_errors += 1
        self.registry.limited.say(
            logging.ERROR,
            f"{type(error).__name__} of {name}",
            "the handler of %r raised on a message from %s",
            endpoint.name,
            self.peer.name,
            error=error,
        )
        return 0

    # --- what a subclass does with it --------------------------------------------

    def admit(self, Endpoint endpoint not None):
        """There is room at a bounded endpoint."""
        raise NotImplementedError

    cdef int batch_done(self, object batch) except -1:
        """The handler of a batch has finished."""
        raise NotImplementedError
