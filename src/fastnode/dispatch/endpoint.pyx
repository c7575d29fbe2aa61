"""The endpoints of a node, their table, and the numbers that peers give them."""

cimport cython
from libc.stdint cimport uint16_t

from fastnode.dispatch.context cimport HandlerContext
from fastnode.dispatch.counters cimport EndpointCounters, NodeCounters
from fastnode.dispatch.lag cimport LoopLag
from fastnode.wire.frame cimport LANES

import logging
from collections import deque
from inspect import iscoroutinefunction

from fastnode.errors import ConfigError, ProtocolError, Side
from fastnode.limits import (
    ENDPOINT_DICTIONARY_SIZE,
    MAX_CONCURRENCY,
    MAX_COUNTED_ENDPOINTS,
    MAX_ENDPOINT_NAME_BYTES,
    MAX_WAITING,
)
from fastnode.log_limit import LogLimit
from fastnode.names import RESERVED_PREFIX, check_not_reserved
from fastnode.sending.codes import OTHER

log = logging.getLogger("fastnode.link")

cdef Py_ssize_t BOOK_SIZE = ENDPOINT_DICTIONARY_SIZE
cdef Py_ssize_t MAX_COUNTED = MAX_COUNTED_ENDPOINTS


cdef bint is_async(object handler) except *:
    """Return whether a handler is a coroutine function or an object with an async call.
    """
    return iscoroutinefunction(handler) or iscoroutinefunction(
        getattr(handler, "__call__", None)
    )


@cython.final
cdef class Endpoint:
    """A name, and the handler for the messages that are sent to the name."""

    def __init__(
        self,
        str name not None,
        handler,
        EndpointCounters counters not None,
        Py_ssize_t most=0,
        *,
        bint batch=False,
        bint invented=False,
        bint reserved=False,
        Py_ssize_t max_waiting=-1,
    ):
        self.max_waiting = max_waiting
        self.counters = counters
        self.name = name
        self.handler = handler
        self.batch = batch
        self.invented = invented
        self.reserved = reserved
        if batch:
            self.batches = most
            self.turns = deque()
        else:
            self.most = most
        if self.most:
            self.waiting = deque()
            self.nested = deque()
        self.asynchronous = handler is not None and is_async(handler)
        self.awaits = self.asynchronous and not batch
        self.plain = not (self.most or self.awaits or batch)

    def unfinished(self):
        """Return the counters of unfinished deliveries that are not 0, for tests."""
        found = {
            "running": self.running,
            "lent": self.lent,
            "queued": self.queued,
            "waiting": len(self.waiting or ()),
            "nested": len(self.nested or ()),
            "turns": len(self.turns or ()),
        }
        return {name: count for name, count in found.items() if count}

    cdef bint full(self, bint nested) noexcept:
        """Return whether a new delivery has to wait for a handler or for its turn."""
        if nested:
            return self.running >= self.most + self.lent or bool(self.nested)
        return self.running >= self.most or bool(self.waiting)

    cdef bint batches_full(self) noexcept:
        """Return whether a new batch has to wait."""
        return self.running >= self.batches or bool(self.turns)


@cython.final
cdef class EndpointRegistry:
    """The endpoints of one node, shared by its links.

    Args:
        node: the name of the node, for the log.
    """

    def __init__(self, str node=None):
        self.by_name = {}
        self.node = node
        self.limited = LogLimit(log, node=node)
        self.counters = NodeCounters()
        self.context = HandlerContext()
        self.max_waiting = -1

    def limit(self, max_waiting, LoopLag lag):
        """Set the bounds above which calls are refused.

        Args:
            max_waiting: deliveries that may wait at all endpoints together. Above it,
                calls that would have to wait are refused. None: no bound.
            lag: refuses calls while the loop is late. None: calls are not refused.
        """
        self.max_waiting = -1 if max_waiting is None else max_waiting
        self.lag = lag

    def add(
        self,
        str name not None,
        handler,
        concurrency=None,
        bint batch=False,
        max_waiting=None,
    ):
        """Register a handler.

        At most `concurrency` calls of the handler run at once. Calls are refused while
        `max_waiting` deliveries wait. With `batch` the handler gets lists of messages.

        Raises:
            ConfigError: the name has a handler already, or is empty, longer than 255
                bytes or reserved; the handler cannot be called; `concurrency` is not a
                number from 1 to MAX_CONCURRENCY, or the handler is not asynchronous;
                `max_waiting` is not a number from 0 to MAX_WAITING, or is given without
                `concurrency`.
        """
        check_not_reserved(name)
        if max_waiting is not None:
            if type(max_waiting) is not int or not 0 <= max_waiting <= MAX_WAITING:
                raise ConfigError(
                    f"the max_waiting of {name!r} is {max_waiting!r}",
                    hint=f"from 0 to {MAX_WAITING}; None for no bound",
                )
            if concurrency is None or batch:
                raise ConfigError(
                    f"endpoint {name!r} has max_waiting, but calls never wait there",
                    hint="pass concurrency too, and no batch",
                )
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
        self.by_name[name] = Endpoint(
            name,
            handler,
            self.new_counters(name),
            concurrency or 0,
            batch=batch,
            max_waiting=-1 if max_waiting is None else max_waiting,
        )
        self.generation += 1

    cdef EndpointCounters new_counters(self, str name):
        """Return counters for a new endpoint. Endpoints beyond a bound share them."""
        if name == OTHER or self.counted_alone >= MAX_COUNTED:
            return self.counters.others
        self.counted_alone += 1
        return EndpointCounters()

    def counted(self):
        """Return the counts of each endpoint, by name.

        All endpoints that share their counters are one entry, "other". Names that peers
        made up belong to this entry too. An entry has the `EndpointCounters`, the
        number of asynchronous handlers that run now, and the number of messages and
        calls that wait now.
        """
        cdef Endpoint each
        cdef EndpointCounters others = self.counters.others
        cdef dict found = {}
        cdef Py_ssize_t running = 0
        cdef Py_ssize_t waiting = 0
        for name, each in self.by_name.items():
            if each.counters is not others:
                found[name] = each.counters, each.running, each.queued
            else:
                running += each.running
                waiting += each.queued
        found[OTHER] = others, running, waiting
        return found

    def add_reserved(self, str name not None, handler):
        """Register a plain handler of fastnode itself.

        Args:
            name: a name that begins with the reserved prefix.
            handler: a plain function.
        """
        self.by_name[name] = Endpoint(
            name, handler, self.counters.others, reserved=True
        )
        self.generation += 1

    def set_fallback(self, handler):
        """Set the handler of all names without a handler of their own.

        None removes it. Reserved names never reach this handler.
        """
        if handler is not None and not callable(handler):
            raise ConfigError("the default handler is not callable")
        self.fallback = handler
        self.generation += 1

    def __len__(self):
        return len(self.by_name)

    def unfinished(self):
        """Return every `Endpoint.unfinished` that is not empty, by endpoint name."""
        cdef Endpoint each
        return {
            name: counts
            for name, each in self.by_name.items()
            if (counts := each.unfinished())
        }

    cdef Endpoint find(self, str name):
        """Return the endpoint with a name, or a new one without a handler.

        Names that peers made up are not kept here.
        """
        cdef object found = self.by_name.get(name)
        if found is None:
            # A peer of a newer version may call a reserved endpoint that is unknown
            # here.
            reserved = name.startswith(RESERVED_PREFIX)
            return Endpoint(
                name,
                None if reserved else self.fallback,
                self.counters.others,
                invented=True,
            )
        return <Endpoint>found


@cython.final
cdef class EndpointNumbers:
    """The numbers that the peer of one link gave to endpoint names."""

    def __init__(self, EndpointRegistry registry not None):
        self.registry = registry
        self.generation = registry.generation
        self.books = [[] for _ in range(LANES)]
        self.book = self.books[0]

    cdef int define(self, int lane, uint16_t number, bytes name) except -1:
        cdef str text
        cdef Endpoint endpoint
        cdef list book = self.books[lane]
        if number > len(book) or number >= BOOK_SIZE:
            raise ProtocolError(
                f"the peer gave an endpoint the number {number}, where "
                f"{len(book)} is the next and {BOOK_SIZE} the bound",
                side=Side.REMOTE,
            )
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(
                "the peer sent an endpoint's name that is not UTF-8", side=Side.REMOTE
            ) from None
        endpoint = self.registry.find(text)
        if number == len(book):
            book.append(endpoint)
        else:
            book[number] = endpoint
        return 0

    cdef Endpoint find(self, int lane, uint16_t number):
        cdef list book = self.book if lane == 0 else <list>self.books[lane]
        if number >= len(book):
            raise ProtocolError(
                f"the peer used endpoint number {number} without naming it",
                side=Side.REMOTE,
            )
        if self.generation != self.registry.generation:
            self.look_again()
        return <Endpoint>book[number]

    cdef int look_again(self) except -1:
        """Look up all names again, because handlers were registered meanwhile."""
        cdef Py_ssize_t i
        cdef list book
        for book in self.books:
            for i in range(len(book)):
                book[i] = self.registry.find((<Endpoint>book[i]).name)
        self.generation = self.registry.generation
        return 0
