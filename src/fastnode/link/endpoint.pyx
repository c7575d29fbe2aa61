"""Named receivers on a node, and the table of them."""

cimport cython

import logging
from collections import deque
from inspect import iscoroutinefunction

from fastnode.errors import ConfigError
from fastnode.limits import MAX_CONCURRENCY, MAX_ENDPOINT_NAME_BYTES
from fastnode.log_limit import LogLimit

log = logging.getLogger("fastnode.link")


@cython.final
cdef class Endpoint:
    """A name and the handler for what is sent to it."""

    def __init__(
        self,
        str name not None,
        handler,
        Py_ssize_t most=0,
        *,
        bint batch=False,
        bint invented=False,
    ):
        self.name = name
        self.handler = handler
        self.batch = batch
        self.invented = invented
        if batch:
            self.batches = most
        else:
            self.most = most
        if most:
            self.waiting = deque()
            self.nested = deque()
        self.asynchronous = handler is not None and (
            iscoroutinefunction(handler)
            or iscoroutinefunction(getattr(handler, "__call__", None))
        )
        self.awaits = self.asynchronous and not batch

    cdef bint full(self, bint nested) noexcept:
        """What comes now has to wait: for a handler to finish, or for its turn."""
        if nested:
            return self.running >= self.most + self.lent or bool(self.nested)
        return self.running >= self.most or bool(self.waiting)

    cdef bint batches_full(self) noexcept:
        """A batch that comes now has to wait."""
        return self.running >= self.batches or bool(self.waiting)


@cython.final
cdef class EndpointRegistry:
    """The endpoints of one node, shared by its links."""

    def __init__(self):
        self.by_name = {}
        self.limited = LogLimit(log)

    def add(self, str name not None, handler, concurrency=None, bint batch=False):
        """Register a handler; at most `concurrency` of it are under way at once. With
        `batch` it is given lists of messages.

        Raises:
            ConfigError: the name has one, is empty or longer than 255 bytes, the
                handler cannot be called, or `concurrency` is not a number from 1 to
                MAX_CONCURRENCY.
        """
        if concurrency is not None and (
            type(concurrency) is not int or not 1 <= concurrency <= MAX_CONCURRENCY
        ):
            raise ConfigError(
                f"the concurrency of {name!r} is {concurrency!r}",
                hint=f"from 1 to {MAX_CONCURRENCY}; None for no bound",
            )
        if not callable(handler):
            raise ConfigError(f"the handler of {name!r} is not callable")
        if not 0 < len(name.encode()) <= MAX_ENDPOINT_NAME_BYTES:
            raise ConfigError(
                f"an endpoint's name has 1 to {MAX_ENDPOINT_NAME_BYTES} bytes"
            )
        if name in self.by_name:
            raise ConfigError(
                f"endpoint {name!r} has a handler already",
                hint="an endpoint has one handler; choose another name",
            )
        self.by_name[name] = Endpoint(name, handler, concurrency or 0, batch=batch)
        self.generation += 1

    def set_fallback(self, handler):
        """The handler of all names that have none of their own; None: no handler."""
        if handler is not None and not callable(handler):
            raise ConfigError("the default handler is not callable")
        self.fallback = handler
        self.generation += 1

    def __len__(self):
        return len(self.by_name)

    cdef Endpoint find(self, str name):
        """The endpoint of that name; one without handler if there is none. Names
        that peers invent are not kept here."""
        cdef object found = self.by_name.get(name)
        if found is None:
            return Endpoint(name, self.fallback, invented=True)
        return <Endpoint>found
