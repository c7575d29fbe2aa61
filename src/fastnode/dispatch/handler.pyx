"""The only place that starts handlers, answers for them, and sees their end.

How it works. `Handlers.begin` calls a handler with the content of one frame, and
`Handlers.begin_batch` with a batch. A plain handler is done when the call returns. The
coroutine of an asynchronous handler runs in a task. The task runs a `Delivery`, and the
delivery runs the handler's coroutine. So the delivery sees the end of the coroutine
itself, without a callback of the task. Messages that wait are deliveries too, see
`fastnode.dispatch.queue`. A message that a plain handler gets at once needs none.

The return value of a handler is the reply. Every exception of a handler is logged,
counted and sent to the caller. It ends nothing else: see `fastnode.dispatch.user_code`.

Unfinished messages count against the peer's window. Two nodes whose handlers call each
other must not wait for each other's memory or turn. So these rules hold while a handler
waits for a call of its own:

- The call travels in the inner lane, and passes messages that wait for credit.
- The handler lends its place at a bounded endpoint to calls from handlers of peers. The
  handler may wait for one of these calls.
- New deliveries of the handler's lane do not wait for this handler.
- If the handler's message came in the inner lane, its bytes do not count.
"""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.contextvars cimport (
    PyContext_Copy,
    PyContext_Enter,
    PyContext_Exit,
    PyContextVar_Set,
    get_value,
)
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_REFCNT
from libc.stdint cimport uint16_t, uint32_t

from fastnode.buffers.spares cimport Spares
from fastnode.dispatch.batch cimport Batch
from fastnode.dispatch.counters cimport SAMPLE
from fastnode.dispatch.endpoint cimport Endpoint, EndpointNumbers, EndpointRegistry
from fastnode.dispatch.histogram cimport seconds_now
from fastnode.dispatch.message cimport Message, make_message
from fastnode.dispatch.paused cimport PausedEndpoints
from fastnode.dispatch.replies cimport send_error, send_reply
from fastnode.dispatch.stopwatch cimport Stopwatch, reach
from fastnode.dispatch.windows cimport Windows
from fastnode.sending.outbox cimport Outbox
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.extension cimport Extension
from fastnode.wire.frame cimport DATA_LANE

import logging
from asyncio import CancelledError
from collections.abc import Coroutine
from contextvars import ContextVar
from inspect import isawaitable

from fastnode.dispatch.user_code import awaited, end_program, is_cancelled, name_of
from fastnode.errors import CallError
from fastnode.loggers import fields
from fastnode.wire.call_error import (
    BUSY,
    DEADLINE_OVER,
    HANDLER_RAISED,
    NO_SUCH_ENDPOINT,
)

log = logging.getLogger("fastnode.link")

# The delivery whose handler runs in this context.
cdef object CURRENT = ContextVar("fastnode handler", default=None)

cdef extern from *:
    """
    static int fastnode_reraise(void) { return -1; }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result)
    bint PyCoro_CheckExact(object what)
    PyObject *call_one "PyObject_CallOneArg" (object function, object argument)
    # Lets Cython raise the exception that is set already.
    int reraise "fastnode_reraise" () except -1


@cython.final
@cython.freelist(256)
cdef class Delivery:
    """A message, call or confirmed message that has arrived, until it is done.

    While its asynchronous handler runs, the delivery is the coroutine of the task.
    """

    # --- as a coroutine -----------------------------------------------------------

    cdef PyObject *step(self, object value) except? NULL:
        """Run the handler to its next wait. NULL without an exception: it has ended."""
        cdef PyObject *given = NULL
        cdef Stopwatch watch
        cdef str name
        cdef double began = 0
        cdef PySendResult sent
        if self.state != RUNNING:
            if self.coroutine is None:
                return NULL
            raise no_more()
        watch = self.handlers.watch
        name = self.endpoint.name
        if watch.limit > 0:
            began = watch.now()
        sent = PyIter_Send(self.coroutine, value, &given)
        if sent == PYGEN_ERROR:
            self.raised()
        elif sent == PYGEN_RETURN:
            result = <object>given
            Py_DECREF(result)
            given = NULL
            self.ended(result, None)
        if began > 0:
            watch.tell(name, began)
        return given

    cdef int raised(self) except -1:
        """Handle the exception that is set, which the handler has raised.

        The caller gets an answer and the error is logged, so the task ends without an
        exception. Only a cancellation of the task is raised again.
        """
        try:
            reraise()
        except BaseException as error:
            self.ended(None, error)
            if isinstance(error, CancelledError):
                raise
        return 0

    cdef int ended(self, object result, object error) except -1:
        """Report the end, once. User code that has the task's coroutine may run it too.
        """
        if self.state == RUNNING:
            self.handlers.handler_ended(self, result, error)
        return 0

    def __await__(self):
        return self

    def __next__(self):
        cdef PyObject *given = self.step(None)
        if given == NULL:
            # Cython makes no exception object of this statement in `__next__`: the slot
            # `tp_iternext` just returns NULL. An exception object would take a seventh
            # of the instructions of a task.
            raise StopIteration
        result = <object>given
        Py_DECREF(result)
        return result

    def send(self, value):
        cdef PyObject *given = self.step(value)
        if given == NULL:
            raise StopIteration
        result = <object>given
        Py_DECREF(result)
        return result

    def throw(self, *exception):
        if self.state != RUNNING:
            raise no_more()
        try:
            return self.coroutine.throw(*exception)
        except StopIteration as stop:
            self.ended(stop.value, None)
        except BaseException as error:
            self.ended(None, error)
            if isinstance(error, CancelledError):
                raise
        raise StopIteration

    def close(self):
        if self.coroutine is not None:
            self.coroutine.close()

    def __getattr__(self, name):
        # Tools that show tasks look for the handler's name, code and frame.
        return getattr(self.coroutine, name)

    # --- calls of its own -----------------------------------------------------------

    cdef int wait(self) except -1:
        """Note that the handler waits for a call that it has made.

        The caller has to call `go_on` later, even if this method raises.
        """
        cdef Endpoint endpoint = self.endpoint
        self.calls += 1
        if self.calls == 1:
            endpoint.lent += 1
            # From here on `go_on` undoes everything, even if a line below fails.
            if self.aside:
                self.handlers.paused.less_under_way(self.size)
            else:
                self.excused = self.handlers.windows.excuse(self.lane, self.size)
                self.handlers.windows.excused_now(self.lane, self.excused)
            if endpoint.nested:
                # The callback must not run in the context of this handler.
                self.handlers.loop.call_soon(self.handlers.on_lent, endpoint)
        return 0

    cdef int go_on(self) except -1:
        """Note that a call of the handler has ended."""
        self.calls -= 1
        if self.calls == 0 and self.state != DONE:
            self.endpoint.lent -= 1
            if self.aside:
                self.handlers.paused.under_way += self.size
            else:
                self.handlers.windows.go_on(self.lane, self.size, self.excused)
        return 0


cdef Delivery new_delivery(
    Handlers handlers,
    Endpoint endpoint,
    bytes payload,
    int lane,
    uint32_t call,
    int flags,
    Extension extension,
):
    """Return a delivery for a message that waits or whose handler runs in a task."""
    cdef Delivery delivery = Delivery.__new__(Delivery)
    delivery.handlers = handlers
    delivery.endpoint = endpoint
    delivery.payload = payload
    delivery.lane = lane
    delivery.call = call
    delivery.flags = flags
    delivery.extension = extension
    delivery.size = TASK_BYTES
    if payload is not None:
        delivery.size += <size_t>PyBytes_GET_SIZE(payload)
    return delivery


cdef Delivery current():
    """Return the delivery whose handler makes a call, or None."""
    cdef Delivery delivery = get_value(CURRENT)
    return None if delivery is None or delivery.state == DONE else delivery


cdef object no_more():
    return RuntimeError("the handler of this coroutine has ended")


@cython.final
cdef class Handlers:
    """The running handlers of one link, and the calls that they answer."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        EndpointRegistry registry not None,
        Windows windows not None,
        Stopwatch watch not None,
        Spares spares not None,
    ):
        self.loop = loop
        self.outbox = outbox
        self.registry = registry
        self.windows = windows
        self.paused = PausedEndpoints(outbox, 2 * windows.room)
        self.watch = watch
        self.spares = spares
        self.tasks = {}
        self.calls = {}

    # --- beginning ------------------------------------------------------------------

    cdef int begin(
        self,
        Endpoint endpoint,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Extension extension,
    ) except -1:
        """Call the handler of an endpoint. The caller has entered the node's context.

        Args:
            payload: the payload of a message, a call or a confirmed message.
            call: the number of a call or of a confirmed message, else 0.
            extension: the extension block, or None.

        Returns:
            1 if the handler goes on in a task, 0 if it is done.
        """
        cdef double began
        cdef int goes_on
        if endpoint.handler is None:
            return self.nobody(endpoint, call, flags)
        if call and not flags & CONFIRMED:
            endpoint.counters.calls += 1
        endpoint.counters.begun += 1
        if (endpoint.counters.begun - 1) & SAMPLE or endpoint.awaits:
            return self.run(endpoint, payload, lane, call, flags, extension)
        began = seconds_now()
        goes_on = self.run(endpoint, payload, lane, call, flags, extension)
        if not goes_on:
            # A handler that runs in a task is timed at the end of its coroutine.
            endpoint.counters.times.record(seconds_now() - began)
        return goes_on

    cdef int run(
        self, Endpoint endpoint, bytes payload, int lane, uint32_t call, int flags,
        Extension extension,
    ) except -1:
        """Do the same as `begin` for an endpoint with a handler, but count nothing."""
        cdef PyObject *returned
        cdef object result
        cdef Message message
        # There is no `try` here, because it costs as much as the rest of this function.
        # A message object is used again only if no other code refers to it any more.
        if self.spare is None or self.spare_given:
            message = make_message(payload, self.peer, endpoint.name)
            if extension is not None:
                message.extension = extension
            returned = call_one(endpoint.handler, message)
            if Py_REFCNT(message) == 1 and self.spare is None:
                message.payload = None
                message.extension = None
                self.spare = message
        else:
            message = self.spare
            message.payload = payload
            if message.endpoint is not endpoint.name:
                message.endpoint = endpoint.name
            if extension is not None:
                message.extension = extension
            self.spare_given = True
            returned = call_one(endpoint.handler, message)
            self.spare_given = False
            if Py_REFCNT(message) == 2:
                message.payload = None
                # The handler may have given it an id.
                if message.extension is not None:
                    message.extension = None
            else:
                self.spare = None
        if returned == NULL:
            return self.raised(endpoint, call, None)
        if returned == <PyObject *>None and call == 0:
            Py_DECREF(<object>returned)
            return 0
        result = <object>returned
        Py_DECREF(result)
        if message is self.spare:
            message = None
        return self.returned(
            endpoint, result, payload, lane, call, flags, None, message, extension
        )

    cdef bint is_over(self, Extension extension) except? True:
        """Return whether the deadline of a call is over, so that it must not begin."""
        return (
            extension is not None
            and extension.deadline > 0
            and <double>self.loop.time() >= extension.deadline
        )

    cdef int refuse_late(self, Endpoint endpoint, uint32_t call) except -1:
        """Refuse a call whose deadline was over before its handler began."""
        self.expired += 1
        endpoint.counters.expired += 1
        return self.outbox.refuse(
            call,
            DEADLINE_OVER,
            "CallTimeout",
            f"the time of the call of {endpoint.name!r} was over before its handler "
            f"began",
        )

    cdef bytes begin_plain(self, Decoder decoder, EndpointNumbers numbers):
        """Begin the next one-way messages of the decoder, until one may have to wait.

        This is the loop for small messages. It has as few instructions as possible.

        Returns:
            The payload of the first message that was not begun, or None.
        """
        cdef list book = numbers.book
        cdef EndpointRegistry registry = self.registry
        cdef Stopwatch watch = self.watch
        cdef Endpoint endpoint
        cdef uint16_t number
        # If a handler has ended the link, the decoder is empty.
        cdef bytes payload = decoder.next_message()
        while payload is not None:
            number = decoder.number
            if number >= PyList_GET_SIZE(book) or (
                numbers.generation != registry.generation
            ):
                break
            endpoint = <Endpoint>PyList_GET_ITEM(book, number)
            if self.held or not endpoint.plain:
                break
            reach(watch, DATA_LANE, number)
            self.messages_received += 1
            if endpoint.handler is None or not endpoint.counters.begun & SAMPLE:
                self.begin(endpoint, payload, DATA_LANE, 0, 0, None)
            else:
                # The same as in `begin`, with fewer instructions.
                endpoint.counters.begun += 1
                self.run(endpoint, payload, DATA_LANE, 0, 0, None)
            payload = decoder.next_message()
        return payload

    cdef int begin_batch(self, Endpoint endpoint, Batch batch) except -1:
        """Call the handler of a batch endpoint. The result is that of `begin`."""
        cdef PyObject *returned
        cdef object result
        messages = batch.messages
        # The handler owns the messages now. They are freed when the handler drops them.
        batch.messages = None
        returned = call_one(endpoint.handler, messages)
        messages = None
        if returned == NULL:
            return self.raised(endpoint, 0, batch)
        result = <object>returned
        Py_DECREF(result)
        return self.returned(
            endpoint, result, None, DATA_LANE, 0, 0, batch, None, None
        )

    cdef int returned(
        self,
        Endpoint endpoint,
        object result,
        bytes payload,
        int lane,
        uint32_t call,
        int flags,
        Batch batch,
        Message message,
        Extension extension,
    ) except -1:
        """Handle the result of a handler: a reply, an awaitable, or None.

        Args:
            message: the message that the handler got, if it may still have it.
        """
        cdef bint confirmed = flags & CONFIRMED
        cdef int goes_on = 0
        cdef Delivery delivery
        cdef bint has_failed = False
        try:
            if call and not confirmed and PyBytes_CheckExact(result):
                return self.outbox.reply(call, <bytes>result)
            if result is not None and (endpoint.asynchronous or isawaitable(result)):
                delivery = new_delivery(
                    self,
                    endpoint,
                    payload,
                    lane,
                    0 if confirmed else call,
                    flags,
                    extension,
                )
                delivery.message = message
                if extension is not None:
                    delivery.deadline = extension.deadline
                if batch is not None:
                    delivery.batch = batch
                goes_on = self.start(result, delivery)
            elif call and not confirmed:
                send_reply(self.outbox, call, result)
        except BaseException as error:
            self.failed(endpoint, call, batch, error)
            has_failed = True
        if has_failed:
            return 0
        if confirmed:
            self.outbox.reply(call, b"")
        if batch is not None:
            self.confirm(batch)
        return goes_on

    cdef int raised(
        self, Endpoint endpoint, uint32_t call, Batch batch
    ) except -1:
        """Handle the exception that is set, which a handler has raised."""
        try:
            reraise()
        except BaseException as error:
            self.failed(endpoint, call, batch, error)
        return 0

    cdef int failed(
        self, Endpoint endpoint, uint32_t call, Batch batch, object error
    ) except -1:
        """Log an error of a handler, or an invalid reply, and send it to the caller."""
        cdef Delivery each
        self.log_error(endpoint, error)
        if call:
            send_error(self.outbox, call, error, self.registry.node)
        if batch is not None and batch.confirms is not None:
            for each in batch.confirms:
                send_error(self.outbox, each.call, error, self.registry.node)
            batch.confirms = None
        return 0

    cdef int confirm(self, Batch batch) except -1:
        """Confirm the messages of a batch that the handler has got."""
        cdef Delivery each
        if batch.confirms is not None:
            for each in batch.confirms:
                self.outbox.reply(each.call, b"")
            batch.confirms = None
        return 0

    cdef int nobody(self, Endpoint endpoint, uint32_t call, int flags) except -1:
        """Refuse or drop what came for an endpoint without a handler."""
        if call == 0 or flags & CONFIRMED:
            self.unhandled += 1
        if call:
            return self.outbox.refuse(
                call, NO_SUCH_ENDPOINT, "NoSuchEndpoint", endpoint.name
            )
        if self.drops is not None:
            self.drops.add(endpoint.name)
        self.registry.limited.say(
            logging.WARNING,
            "no such endpoint",
            "a message from %s to %r was dropped: no such endpoint here",
            self.peer.name,
            endpoint.name,
            event="message_dropped",
            peer=self.peer,
            endpoint=endpoint.name,
        )
        return 0

    cdef int refuse_busy(self, Endpoint endpoint, uint32_t call, str text) except -1:
        """Refuse a call or confirmed message. `text` says what is full."""
        self.refused += 1
        endpoint.counters.refused += 1
        # A peer of an older version takes this code for an error of the handler.
        return self.outbox.refuse(
            call, BUSY if self.outbox.extensions else HANDLER_RAISED, "Busy", text
        )

    # --- asynchronous handlers ------------------------------------------------

    cdef int start(self, object awaitable, Delivery delivery) except -1:
        """Run the awaitable that a handler returned in a task.

        Returns:
            1 if the task runs; 0 if it is done already, because the loop makes eager
            tasks. For a batch always 1, because `on_end` is called later.
        """
        cdef Endpoint endpoint = delivery.endpoint
        cdef uint32_t call = delivery.call
        cdef size_t size = delivery.size
        cdef object context
        if not PyCoro_CheckExact(awaitable) and not isinstance(awaitable, Coroutine):
            awaitable = awaited(awaitable)
        delivery.coroutine = awaitable
        if not endpoint.batch:
            endpoint.awaits = True
            endpoint.plain = False
        if size - TASK_BYTES < self.spares.least:
            delivery.payload = None  # its memory is too small to be reused
        delivery.state = RUNNING
        delivery.began = seconds_now()
        if self.paused.count and not delivery.flags & NESTED and (
            self.paused.takes(endpoint.name, aside_size(delivery))
        ):
            delivery.aside = True
            self.paused.under_way += size
        else:
            self.windows.begin(delivery.lane, size)
        self.running += 1
        endpoint.running += 1
        try:
            if call:
                self.calls[call] = delivery
            context = PyContext_Copy(self.registry.context.context)
            PyContext_Enter(context)
            try:
                PyContextVar_Set(CURRENT, delivery)
                task = self.loop.create_task(delivery)
            finally:
                PyContext_Exit(context)
            if delivery.state == DONE:
                return endpoint.batch
            self.tasks[delivery] = task
        except BaseException:
            if delivery.state == RUNNING:
                if call:
                    self.calls.pop(call, None)
                try:
                    delivery.close()
                finally:
                    # Memory may have run out after the task was made. Without a
                    # coroutine the task ends when it runs.
                    delivery.coroutine = None
                    self.finish(delivery)
            raise
        if call and call not in self.calls:
            # The handler has begun, and its caller gave up meanwhile.
            task.cancel()
        return 1

    cdef int handler_ended(
        self, Delivery delivery, object result, object error
    ) except -1:
        """Handle the end of a handler, which returned, or raised `error`.

        In every case the handler does not count as running any more, and the code that
        waits for its end is called. If the caller cannot be answered, the link ends.
        """
        cdef uint32_t call = delivery.call
        cdef Endpoint endpoint = delivery.endpoint
        cdef Batch batch = delivery.batch
        cdef object on_end = None
        endpoint.counters.times.record(seconds_now() - delivery.began)
        try:
            if call and self.calls.pop(call, None) is not None:
                self.answer(endpoint, call, result, error)
            elif error is not None and not is_cancelled(error):
                self.log_error(endpoint, error)
        except Exception as wrong:
            self.begin_failed(wrong)
        finally:
            if endpoint.most or endpoint.batch or self.tell_ends:
                on_end = self.on_end
                try:
                    # The callback must not run in the task and context of this handler.
                    self.loop.call_soon(on_end, endpoint, batch)
                    on_end = None
                except MemoryError:
                    # Other links may still wait for the end of this handler.
                    pass
            self.finish(delivery)
            if on_end is not None:
                on_end(endpoint, batch)
        return 0

    cdef int answer(
        self, Endpoint endpoint, uint32_t call, object result, object error
    ) except -1:
        """Send the result or the error of an asynchronous handler to the caller."""
        if error is None:
            try:
                if PyBytes_CheckExact(result):
                    return self.outbox.reply(call, <bytes>result)
                return send_reply(self.outbox, call, result)
            except BaseException as wrong:
                error = wrong
        if not is_cancelled(error):
            self.log_error(endpoint, error)
        return send_error(self.outbox, call, error, self.registry.node)

    cdef int finish(self, Delivery delivery) except -1:
        """Release everything that a handler held, because the handler has ended.

        Tasks that the handler left behind still refer to the delivery by context.
        So the delivery drops its references to the link.
        """
        cdef Endpoint endpoint = delivery.endpoint
        cdef bytes payload
        self.tasks.pop(delivery, None)
        if delivery.calls:
            # Tasks that the handler left behind may still call. Those calls do not
            # belong to the handler any more.
            endpoint.lent -= 1
            if delivery.aside:
                self.paused.under_way += delivery.size
            else:
                self.windows.go_on(delivery.lane, delivery.size, delivery.excused)
        delivery.state = DONE
        delivery.handlers = None
        delivery.endpoint = None
        delivery.message = None
        if endpoint.batch:
            delivery.batch = None
        self.running -= 1
        endpoint.running -= 1
        if delivery.payload is not None:
            payload = delivery.payload
            delivery.payload = None
            self.spares.put(payload)
        try:
            if delivery.aside:
                self.paused.less_under_way(delivery.size)
                self.paused.free(endpoint.name, aside_size(delivery))
            else:
                self.windows.handler_ended(delivery.lane, delivery.size)
        except Exception as error:
            # Without this credit the peer may wait for ever, so the link has to end.
            self.begin_failed(error)
        return 0

    cdef bint cancel(self, uint32_t call, bint late) except? True:
        """Cancel a call, because its caller gave up.

        A running handler is cancelled. A handler that has not begun does not begin.

        Args:
            call: the number of the call.
            late: whether the caller gave up because the deadline is over.

        Returns:
            False if no such call is known.
        """
        cdef Delivery delivery = self.calls.pop(call, None)
        if delivery is None:
            return False
        if delivery.state == RUNNING:
            task = self.tasks.get(delivery)
            if task is not None:
                task.cancel()
        else:
            delivery.state = DONE
            if delivery.queue is not None:
                delivery.endpoint.queued -= 1
                self.registry.queued -= 1
            if late:
                self.refuse_late(delivery.endpoint, call)
        return True

    def stop(self):
        """Cancel the running handlers, and return their tasks."""
        cdef list tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        return tasks

    cdef int close(self) except -1:
        """Send no more replies, because the link has ended."""
        cdef uint32_t call
        if self.drops is not None:
            self.drops.close()
        for call in list(self.calls):
            self.cancel(call, False)
        return 0

    # --- errors -----------------------------------------------------------------

    cdef int begin_failed(self, object error) except -1:
        """End the link, because a delivery could not begin, be answered or granted."""
        if self.on_error is not None:
            self.on_error(error)
        return 0

    cdef dict log_fields(self, str event, str endpoint):
        """Return the fields of a log record about a handler."""
        node = self.registry.node
        return fields(event, node=node, peer=self.peer, endpoint=endpoint)

    cdef int log_error(self, Endpoint endpoint, object error) except -1:
        """Log and count an exception of a handler.

        A peer can cause many errors, so their log lines are limited. `SystemExit` and
        `KeyboardInterrupt` end the program.
        """
        cdef str name = "" if endpoint.invented else endpoint.name
        cdef str kind = name_of(error)
        if isinstance(error, CallError):
            # The handler chose this answer, so it is no fault.
            if log.isEnabledFor(logging.DEBUG):  # the fields cost more than the call
                log.debug(
                    "the handler of %r refused: %s",
                    endpoint.name,
                    kind,
                    extra=self.log_fields("handler_refused", endpoint.name),
                )
            return 0
        self.errors += 1
        endpoint.counters.errors += 1
        try:
            self.registry.limited.say(
                logging.ERROR,
                f"{kind} of {name}",
                "the handler of %r raised on a message from %s",
                endpoint.name,
                self.peer.name,
                event="handler_failed",
                peer=self.peer,
                endpoint=endpoint.name,
                traceback=error,
            )
        except BaseException:
            # Formatting the exception runs user code too, and may raise.
            log.error(
                "the handler of %r raised %s",
                endpoint.name,
                kind,
                extra=self.log_fields("handler_failed", endpoint.name),
            )
        end_program(error)
        return 0
