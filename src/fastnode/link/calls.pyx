"""The calls that wait for a reply on one link."""

cimport cython
from libc.stdint cimport uint32_t

from fastnode.dispatch.counters cimport NodeCounters
from fastnode.dispatch.handler cimport Delivery, current
from fastnode.dispatch.histogram cimport seconds_now
from fastnode.link.busy_poll cimport BusyPoll, PolledReply
from fastnode.sending.outbox cimport Outbox, fail
from fastnode.wire.decoder cimport Decoder
from fastnode.wire.extension cimport (
    NO_METADATA,
    Extension,
    decode_block,
    make_block,
)
from fastnode.wire.frame cimport CALL, CANCEL, CONFIRM, DATA_LANE

import logging
from asyncio import CancelledError
from struct import Struct

from fastnode.errors import (
    Busy,
    CallTimeout,
    FastnodeError,
    MessageTooLarge,
    NoSuchEndpoint,
    RemoteError,
    Side,
)
from fastnode.limits import BUSY_POLL_CALLS
from fastnode.loggers import fields
from fastnode.names import check_timeout
from fastnode.dispatch.current import inherited_timeout
from fastnode.dispatch.reply import Reply
from fastnode.wire.call_error import (
    BUSY,
    DEADLINE_OVER,
    NO_SUCH_ENDPOINT,
    REPLY_TOO_LARGE,
    decode_call_error,
)

log = logging.getLogger("fastnode.link")

# A call leaves at once where no other is under way. Where many are, they leave in two
# halves: the peer works on one while we queue the other. Measured with 64 calls under
# way: 214 k/s without, 318 k/s in halves, 290 k/s in quarters.
cdef Py_ssize_t LEAST_HALF = 16
# Where more are under way, there is enough to do until the replies come.
cdef Py_ssize_t FEW = BUSY_POLL_CALLS

# Seconds that no call waits for, 31 years. The wire format knows no endless deadline.
cdef double FOREVER = 1e9

# The body of CANCEL.
cdef object NUMBER = Struct(">I")


@cython.final
cdef class CallTable:
    """Gives calls their numbers and replies their callers."""

    def __init__(
        self,
        loop,
        Outbox outbox not None,
        BusyPoll poll not None,
        NodeCounters counters not None,
    ):
        self.counters = counters
        self.loop = loop
        self.outbox = outbox
        self.polled = PolledReply(poll)
        self.waiting = {}
        self.found = {}

    def set_peer(self, peer):
        """Who replies; named in errors."""
        self.peer = peer

    def __len__(self):
        return len(self.waiting)

    async def call(
        self,
        str endpoint not None,
        payload,
        timeout,
        bint confirm=False,
        int priority=DATA_LANE,
        metadata=None,
        bint inherit=True,
        bytes request_id=None,
        int attempt=1,
    ):
        """Send a call and wait for its reply, at most `timeout` seconds; or a message
        and wait for its confirmation, which is an empty reply.

        Args:
            inherit: a call of a handler may take no longer than what that handler has.
            request_id: 16 bytes, of a request, whose caller wants a `Reply`; or None.
        """
        cdef uint32_t number
        cdef Py_ssize_t under_way
        cdef double deadline = 0
        cdef bytes block = None
        cdef bint at_once
        # Memory may run out in each step before the call is queued: then it is not.
        # After that step the peer sees the call, so it is abandoned.
        cdef bint is_queued = False
        cdef bint handler_waits = False
        cdef double began = seconds_now()
        timer = None
        # Most are checked without a call of Python.
        if timeout is not None and not (
            type(timeout) is float and 0 <= timeout <= FOREVER
        ):
            timeout = check_timeout(timeout)
            if timeout > FOREVER:
                timeout = None
        cdef Delivery handling = current()
        if handling is not None and inherit and handling.deadline > 0:
            timeout = inherited_timeout(timeout, self.peer)
        if timeout is not None:
            deadline = <double>self.loop.time() + <double>timeout
        if self.outbox.extensions:
            if timeout is not None or metadata is not None or request_id is not None:
                block = make_block(timeout is not None, request_id, attempt, metadata)
        elif metadata is not None:
            # It is checked all the same.
            make_block(False, None, 1, metadata)
            self.say_no_metadata()
        number = self.free_number()
        # The key of the dicts, made once: `number` would be converted at each use.
        key = number
        future = self.loop.create_future()
        under_way = len(self.waiting) + 1
        at_once = under_way == 1 or (
            self.unsent + 1 >= LEAST_HALF and (self.unsent + 1) * 2 >= under_way
        )
        try:
            if timeout is not None:
                timer = self.loop.call_later(
                    timeout, self.expire, number, endpoint, timeout
                )
            if not at_once:
                self.outbox.schedule()
            self.waiting[key] = future
            if request_id is not None:
                self.found[key] = NO_METADATA
            self.outbox.call(
                CONFIRM if confirm else CALL,
                endpoint,
                number,
                payload,
                priority,
                handling is not None,
                block,
                deadline if block is not None else 0,
            )
            is_queued = True
            # Not before: the peer counts the numbers that it sees.
            self.last = number
            if at_once:
                # Without a flush scheduled: that would cost another turn of the loop,
                # and a system call. May end the link, and with it this call.
                self.unsent = 0
                self.outbox.flush()
            else:
                self.unsent += 1
                self.outbox.queued()
            if handling is not None:
                handler_waits = True
                handling.wait()
            if under_way <= FEW:
                self.polled.begin(self.loop, number)
            payload = await future
            self.counters.calls.record(seconds_now() - began)
            if request_id is None:
                return payload
            return Reply(payload, self.found[key], self.peer, attempt)
        except BaseException as error:
            # Cancelled, or out of memory. Otherwise the reply or error has come.
            if is_queued and (future.cancelled() or not future.done()):
                self.abandon(
                    number, deadline > 0 and <double>self.loop.time() >= deadline
                )
                if isinstance(error, TypeError):
                    # What `await` raises where there is no memory for its iterator.
                    raise MemoryError() from error
            self.count_failed(error)
            raise
        finally:
            if request_id is not None:
                self.found.pop(key, None)
            if timer is not None:
                timer.cancel()
            self.waiting.pop(key, None)
            if self.polled.number == number:
                self.polled.stop_polling(False)
            if handler_waits:
                handling.go_on()
            if self.on_idle is not None and not self.waiting:
                self.on_idle()

    cdef int count_failed(self, error) except -1:
        """Count a call or confirmed message of this node that failed."""
        cdef object code = "unknown"
        if isinstance(error, CallTimeout):
            self.counters.timed_out += 1
        if isinstance(error, FastnodeError):
            code = error.code
        elif isinstance(error, CancelledError):
            code = "cancelled"
        try:
            self.counters.call_errors.add(code)
        except MemoryError:
            # The caller is told of its own error nevertheless.
            pass
        return 0

    def say_no_metadata(self):
        """The peer does not take metadata: say so, once."""
        if not self.metadata_refused:
            self.metadata_refused = True
            log.warning(
                "%s runs a version that takes no metadata: it is left out",
                self.peer.name,
                extra=fields("metadata_left_out", peer=self.peer),
            )

    def expire(self, uint32_t number, str endpoint, timeout):
        """The time of a call is over."""
        future = self.waiting.get(number)
        if future is not None and not future.done():
            try:
                error = CallTimeout(
                    f"no reply from {endpoint!r} within {timeout:g} s",
                    timeout=timeout,
                    peer=self.peer,
                    side=Side.REMOTE,
                )
            except MemoryError as instead:
                error = instead
            future.set_exception(error)
            self.abandon(number, True)

    def abandon(self, uint32_t number, bint late):
        """Tell the peer that nobody waits any more, so that it can stop working. If
        memory has run out, it works in vain: its reply is dropped.

        Args:
            late: because the time of the call is over.
        """
        if self.waiting.pop(number, None) is not None:
            try:
                if not self.outbox.drop_parked(number):
                    self.outbox.frame(CANCEL, LATE if late else 0, NUMBER.pack(number))
            except MemoryError:
                pass

    cdef uint32_t free_number(self) except 0:
        cdef uint32_t number = self.last
        while True:
            number += 1
            if number and number not in self.waiting:
                return number

    cdef int replied(self, Decoder decoder, bytes payload) except -1:
        """A reply came; one that nobody waits for any more is dropped."""
        cdef uint32_t number = decoder.call
        cdef object future = self.waiting.get(number)
        if decoder.block is not None:
            self.take_metadata(number, decoder.block)
            decoder.block = None
        if self.polled.number == number:
            self.polled.stop_polling(True)
        if future is not None and not future.done():
            future.set_result(payload)
        return 0

    cdef int take_metadata(self, uint32_t number, bytes block) except -1:
        """A reply has an extension block: keep its metadata for the request."""
        cdef Extension extension = decode_block(block)
        if extension.metadata is not None and number in self.found:
            self.found[number] = extension.metadata
        return 0

    cdef int failed(self, Decoder decoder, bytes body) except -1:
        """An ERROR came instead of a reply: `body` is what follows number and block."""
        cdef uint32_t number = decoder.call
        cdef object future = self.waiting.get(number)
        cdef Extension extension = None
        if decoder.block is not None:
            extension = decode_block(decoder.block)
            decoder.block = None
        cdef object error
        code, name, text = decode_call_error(body)
        if self.polled.number == number:
            self.polled.stop_polling(True)
        if code == DEADLINE_OVER:
            self.expired_there += 1
        if future is None or future.done():
            return 0
        if code == NO_SUCH_ENDPOINT:
            error = NoSuchEndpoint(
                f"{self.peer.name} has no endpoint {text!r}",
                peer=self.peer,
                side=Side.REMOTE,
            )
        elif code == REPLY_TOO_LARGE:
            error = MessageTooLarge(
                f"the reply was not sent: {text}",
                peer=self.peer,
                side=Side.REMOTE,
                hint="raise max_message_size on this node, or have it sent in parts",
                begun="yes",
            )
        elif code == DEADLINE_OVER:
            error = CallTimeout(
                text, peer=self.peer, side=Side.REMOTE, begun="no"
            )
        elif code == BUSY:
            error = Busy(text, peer=self.peer, side=Side.REMOTE)
        elif extension is not None and extension.code is not None:
            error = RemoteError(
                name,
                text,
                code=extension.code,
                details=extension.details,
                peer=self.peer,
            )
        else:
            error = RemoteError(name, text, peer=self.peer)
        future.set_exception(error)
        return 0

    cdef int close(self, error) except -1:
        """Every call that still waits fails with this error.

        A call that the peer has certainly not begun does not count as unanswered. It
        may be sent on another link, as `Node.call` does.
        """
        cdef dict waiting = self.waiting
        cdef bint may_have_begun = error.begun != "no"
        self.on_idle = None
        for future in waiting.values():
            if not future.done():
                self.unanswered += may_have_begun
                fail(future, error)
        waiting.clear()
        return 0
