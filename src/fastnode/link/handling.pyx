"""An asynchronous handler that is under way, and the calls that it waits for.

Two nodes whose handlers call each other must not wait for each other's memory or turn.
So while a handler waits for a call of its own

- that call passes messages that wait for credit, in the inner lane;
- its place at a bounded endpoint is lent to calls that handlers of the peers make: one
  of them may be what it waits for;
- it is not among the handlers that what comes in its lane waits for;
- what it holds, if it came in the inner lane itself, is not counted.
"""

cimport cython
from cpython.contextvars cimport (
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    PyContextVar_Set,
    get_value,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from fastnode.link.endpoint cimport Endpoint
from fastnode.link.stopwatch cimport Stopwatch

from asyncio import CancelledError
from collections.abc import Coroutine
from contextvars import ContextVar

# The handler in whose context something runs.
cdef object CURRENT = ContextVar("fastnode handler", default=None)

cdef extern from *:
    """
    static int fastnode_reraise_error(void) { return -1; }
    """
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result)
    bint PyCoro_CheckExact(object what)
    # Makes Cython see the exception that is set.
    int reraise "fastnode_reraise_error" () except -1


cdef class HandlingOwner:
    """What starts handlers, and is told how they end."""

    cdef int end(self, Handling handling, object result, object error) except -1:
        """A handler has returned; or raised `error`, if that is not None."""
        raise NotImplementedError

    def admit(self, Endpoint endpoint not None):
        """There is room at a bounded endpoint."""
        raise NotImplementedError


@cython.final
@cython.freelist(256)
cdef class Handling:
    """One asynchronous handler, from its task's making to its end.

    It is the coroutine that the task runs, around the handler's own: it sees the end
    in place, without a callback of the task, and a class costs less than `async def`.
    """

    cdef object begin(self, object loop):
        """Make its task. A factory of eager tasks has begun it by the return."""
        cdef object context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        try:
            PyContextVar_Set(CURRENT, self)
            return loop.create_task(self)
        finally:
            PyContext_Exit(context)

    # --- as a coroutine -----------------------------------------------------------

    cdef PyObject *step(self, object value) except? NULL:
        """Run it up to its next wait; NULL without an exception: it has ended."""
        cdef PyObject *given = NULL
        cdef Stopwatch watch = self.owner.watch
        cdef double began = watch.now()
        cdef PySendResult sent = PyIter_Send(self.coroutine, value, &given)
        if sent == PYGEN_ERROR:
            self.raised()
        elif sent == PYGEN_RETURN:
            result = <object>given
            Py_DECREF(result)
            given = NULL
            self.owner.end(self, result, None)
        watch.tell(self.endpoint.name, began)
        return given

    cdef int raised(self) except -1:
        """The handler raised what is set as exception. The owner answers the caller and
        logs it, so the task ends well. Only a cancellation cancels the task too."""
        try:
            reraise()
        except BaseException as error:
            self.owner.end(self, None, error)
            if isinstance(error, CancelledError):
                raise
        return 0

    def __await__(self):
        return self

    def __next__(self):
        cdef PyObject *given = self.step(None)
        if given == NULL:
            # Here, and only here, no exception is made of it: the type's `tp_iternext`
            # returns NULL. An exception is a seventh of a task's instructions.
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
        try:
            return self.coroutine.throw(*exception)
        except StopIteration as stop:
            self.owner.end(self, stop.value, None)
        except BaseException as error:
            self.owner.end(self, None, error)
            if isinstance(error, CancelledError):
                raise
        raise StopIteration

    def close(self):
        self.coroutine.close()

    def __getattr__(self, name):
        # What shows tasks looks for the handler's name, code and frame.
        return getattr(self.coroutine, name)

    # --- what it holds ------------------------------------------------------------

    cdef int wait(self) except -1:
        """It has made a call."""
        self.calls += 1
        if self.calls == 1:
            self.excused = self.owner.windows.excuse(self.lane, self.size)
            self.endpoint.lent += 1
            if self.endpoint.nested:
                self.owner.admit(self.endpoint)
        return 0

    cdef int go_on(self) except -1:
        """A call of its own is over."""
        self.calls -= 1
        if self.calls == 0 and not self.done:
            self.count_again()
        return 0

    cdef int count_again(self) except -1:
        self.endpoint.lent -= 1
        return self.owner.windows.go_on(self.lane, self.size, self.excused)

    cdef int finish(self) except -1:
        """It has ended; calls of tasks that it left behind are not its own."""
        if self.calls:
            self.count_again()
        self.done = True
        self.endpoint.running -= 1
        return self.owner.windows.end(self.lane, self.size)


cdef Handling new_handling(
    HandlingOwner owner,
    object awaitable,
    object number,
    Endpoint endpoint,
    size_t size,
    int lane,
):
    """Count what a handler holds from now on; `number` is the call that it answers."""
    cdef Handling handling = Handling.__new__(Handling)
    if not PyCoro_CheckExact(awaitable) and not isinstance(awaitable, Coroutine):
        awaitable = awaited(awaitable)
    handling.owner = owner
    handling.coroutine = awaitable
    handling.number = number
    handling.endpoint = endpoint
    handling.size = size
    handling.lane = lane
    owner.windows.begin(lane, size)
    endpoint.running += 1
    return handling


async def awaited(awaitable):
    """The coroutine of what is none, such as a future."""
    return await awaitable


cdef Handling current():
    """The handler that makes a call, or None."""
    cdef Handling handling = get_value(CURRENT)
    return None if handling is None or handling.done else handling
