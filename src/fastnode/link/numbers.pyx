"""The endpoints that a peer has named, by the numbers that it gave them."""

cimport cython
from libc.stdint cimport uint16_t

from fastnode.link.endpoint cimport Endpoint, EndpointRegistry
from fastnode.wire.frame cimport LANES

from fastnode.errors import ProtocolError, Side
from fastnode.limits import ENDPOINT_DICTIONARY_SIZE

cdef Py_ssize_t BOOK_SIZE = ENDPOINT_DICTIONARY_SIZE


@cython.final
cdef class EndpointNumbers:
    """The endpoint dictionaries of one link's receiving side."""

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
        """Handlers were registered since: look all names up once more."""
        cdef Py_ssize_t i
        cdef list book
        for book in self.books:
            for i in range(len(book)):
                book[i] = self.registry.find((<Endpoint>book[i]).name)
        self.generation = self.registry.generation
        return 0
