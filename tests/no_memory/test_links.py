"""When memory runs out on a link: nothing has happened, or the link ends with an error.

The peer is the test: it decodes what the link writes, and never sees half a frame.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastnode import Message
from fastnode.errors import LinkClosed, LinkLost
from fastnode.link.machine import State
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.no_memory import NEEDS_HOOKS, raises, starts

pytestmark = NEEDS_HOOKS

FAILURES = pytest.mark.parametrize("failures", [1, 3], ids=["one", "three"])
#: Kinds whose body begins with the number of a call.
NUMBERED = (frames.CALL, frames.CONFIRM, frames.REPLY, frames.ERROR, frames.CANCEL)
PAYLOADS: dict[str, tuple[str, Any]] = {
    "small": ("known", b"payload"),
    "new name": ("new", b"payload"),
    "split": ("known", bytes(10_000)),
    "large": ("new", bytes(40_000)),
    "flushed at once": ("known", bytes(150_000)),
    "buffer": ("known", bytearray(100)),
}


@contextmanager
def memory_node() -> Iterator[tuple[TurnLoop, MemoryNode]]:
    with running_loop() as loop:
        node = MemoryNode(loop)
        yield loop, node
        # That a link was lost is logged. Of a task that could not be made, asyncio
        # says that it is pending.
        node.take_errors()
        loop.complaints.clear()
        node.finish()
        assert node.context.registry.unfinished() == {}


class Peer:
    """The other end of a link that is up.

    Attributes:
        got: kind, call and payload of what came, but for names and grants.
    """

    def __init__(self, node: MemoryNode, *endpoints: str) -> None:
        self.end: MemoryEnd = node.end()
        self.end.connect()
        self.end.feed(frames.hello("c@127.0.0.1"))
        self.end.feed(frames.frame(frames.ACCEPT))
        for number, name in enumerate(endpoints):
            self.end.feed(frames.endpoint(number, name.encode()))
        assert self.end.state is State.UP, self.end.error
        self.link: Any = self.end.protocol.link
        self.link.send("known", b"first")
        node.loop.turn()
        self.data = b""
        self.books: dict[tuple[int, int], bytes] = {}
        self.parts: dict[int, tuple[int, int, bytes, int]] = {}
        self.got: list[tuple[int, int, bytes]] = []
        self.read()
        # HELLO and ACCEPT, and what was sent first.
        assert self.got[-1] == (frames.MESSAGE, 0, b"known:first")
        self.got.clear()

    def read(self) -> None:
        """Decode what was written; a frame that is cut is left in `data`."""
        self.data += self.end.transport.take()
        while len(self.data) >= 8:
            kind, flags, number, size = struct.unpack_from(">BBHI", self.data)
            if len(self.data) < 8 + size:
                return
            body = self.data[8 : 8 + size]
            self.data = self.data[8 + size :]
            self.frame(kind, flags, number, body)

    def frame(self, kind: int, flags: int, number: int, body: bytes) -> None:
        lane = flags >> 1 & 7
        call = 0
        if kind == frames.ENDPOINT:
            self.books[lane, number] = body
            return
        if kind == frames.CREDIT:
            return
        if kind == frames.CONTINUE:
            kind, call, before, total = self.parts.pop(number)
            body = before + body
            if flags & frames.MORE:
                self.parts[number] = kind, call, body, total
                return
            assert len(body) == total
            self.got.append((kind, call, body))
            return
        if kind in NUMBERED:
            call = int.from_bytes(body[:4])
            body = body[4:]
        total = 0
        if flags & frames.MORE:
            total = int.from_bytes(body[:8])
            body = body[8:]
        if kind in (frames.MESSAGE, frames.CALL, frames.CONFIRM):
            name = self.books[lane, number] + b":"
            body, total = name + body, total + len(name)
        if flags & frames.MORE:
            self.parts[frames.BULK_REPLIES if kind == frames.REPLY else lane] = (
                kind, call, body, total
            )  # fmt: skip
        else:
            self.got.append((kind, call, body))


def has_ended(peer: Peer) -> bool:
    """Whether the link has ended; then its user is told why."""
    if peer.end.state is not State.CLOSED:
        return False
    assert isinstance(peer.end.error, LinkLost)
    with pytest.raises(LinkClosed):
        peer.link.send("known", b"")
    return True


def check_that_it_goes_on(
    loop: TurnLoop, peer: Peer, expected: list[tuple[int, int, bytes]]
) -> None:
    """What was sent, and nothing else, has left; and a message and a call pass."""
    loop.turn()
    for name in ("known", "new", "newer"):
        peer.link.send(name, b"later")
        expected.append((frames.MESSAGE, 0, name.encode() + b":later"))
    loop.turn()
    peer.read()
    # What has several frames may be passed.
    assert sorted(peer.got) == sorted(expected)
    assert not peer.data
    assert peer.link.stats.queued_bytes == 0
    peer.got.clear()
    call = loop.create_task(peer.link.call("known", b"question"))
    loop.turn()
    peer.read()
    (kind, number, payload) = peer.got.pop()
    assert (kind, payload) == (frames.CALL, b"known:question")
    peer.end.feed(frames.frame(frames.REPLY, number.to_bytes(4) + b"answer"))
    assert call.result() == b"answer"


@FAILURES
@pytest.mark.parametrize("what", PAYLOADS)
def test_send_raises_and_queues_nothing(what: str, failures: int) -> None:
    name, payload = PAYLOADS[what]
    failed = True
    with memory_node() as (loop, node):
        for start in starts(lambda: failed):  # noqa: B023
            peer = Peer(node)
            sent: list[tuple[int, int, bytes]] = []
            before = peer.link.stats.messages_sent
            raised = raises(
                lambda: peer.link.send(name, payload),  # noqa: B023
                start,
                failures,
            )
            failed = raised
            if not raised:
                sent.append((frames.MESSAGE, 0, name.encode() + b":" + payload))
            if has_ended(peer):
                # Of what was not complete, nothing more was written.
                assert not raised
                failed = True
                peer.read()
                assert peer.got in ([], sent) or peer.got[-1][0] == frames.GOODBYE
                continue
            assert peer.link.stats.messages_sent == before + (not raised)
            check_that_it_goes_on(loop, peer, sent)


@FAILURES
@pytest.mark.parametrize("others", [0, 3], ids=["alone", "beside others"])
@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("what", PAYLOADS)
def test_call_raises_and_nobody_waits_for_it(
    what: str, timeout: float | None, others: int, failures: int
) -> None:
    name, payload = PAYLOADS[what]
    failed = True
    with memory_node() as (loop, node):
        for start in starts(lambda: failed):  # noqa: B023
            peer = Peer(node)
            tasks = [
                loop.create_task(peer.link.call("known", b"%d" % number))
                for number in range(others)
            ]
            loop.turn()
            peer.read()
            numbers = [number for _, number, _ in peer.got]
            peer.got.clear()
            call = peer.link.call(name, payload, timeout=timeout)
            lost: list[LinkLost] = []

            def begin(
                call: Coroutine[Any, Any, bytes] = call, lost: list[LinkLost] = lost
            ) -> None:
                try:
                    call.send(None)
                except LinkLost as error:
                    lost.append(error)

            failed = raised = raises(begin, start, failures)
            if not raised and peer.end.state is State.UP:
                loop.turn()
                peer.read()
                ((kind, number, text),) = peer.got
                assert (kind, text) == (frames.CALL, name.encode() + b":" + payload)
                peer.got.clear()
                peer.end.feed(frames.frame(frames.REPLY, number.to_bytes(4) + b"done"))
                with pytest.raises(StopIteration) as stop:
                    call.send(None)
                assert stop.value.value == b"done"
            if has_ended(peer):
                failed = True
                if not raised and not lost:
                    with pytest.raises((LinkLost, MemoryError)):
                        call.send(None)
                loop.turn()
                for task in tasks:
                    assert isinstance(task.exception(), LinkLost)
                peer.read()
                continue
            loop.turn()
            peer.read()
            # It was not queued; or it was, and the peer is told that nobody waits.
            kinds = [kind for kind, _, _ in peer.got]
            assert sorted(kinds) in ([], [frames.CALL, frames.CANCEL]) or (
                failures > 1 and kinds == [frames.CALL]
            )
            peer.got.clear()
            for number in numbers:
                peer.end.feed(frames.frame(frames.REPLY, number.to_bytes(4) + b"r"))
            assert [task.result() for task in tasks] == [b"r"] * others
            check_that_it_goes_on(loop, peer, [])


@FAILURES
@pytest.mark.parametrize("size", [5, 10_000, 150_000])
def test_a_flush_that_fails_ends_the_link_between_frames_or_silently(
    size: int, failures: int
) -> None:
    failed = True
    with memory_node() as (loop, node):
        for start in starts(lambda: failed):  # noqa: B023
            peer = Peer(node)
            peer.end.callbacks.pause_writing()
            sent = []
            for number in range(3):
                payload = b"%d" % number + bytes(size)
                peer.link.send("known", payload)
                sent.append((frames.MESSAGE, 0, b"known:" + payload))
            drain: Coroutine[Any, Any, None] = peer.link.drain()
            raised = raises(peer.end.callbacks.resume_writing, start, failures)
            assert not raised or failures > 1
            if peer.end.state is State.UP and raised:
                # There was no memory for the end either; there is now.
                loop.turn()
            failed = has_ended(peer)
            if failed:
                with pytest.raises(LinkClosed):
                    drain.send(None)
                peer.read()
                goodbyes = [got for got in peer.got if got[0] == frames.GOODBYE]
                messages = [got for got in peer.got if got[0] == frames.MESSAGE]
                assert messages == sent[: len(messages)]
                # A goodbye in a torn stream would be taken for a part of a message.
                assert not (goodbyes and peer.data)
                continue
            drain.close()
            check_that_it_goes_on(loop, peer, sent)


# CPython 3.11 itself crashes where two allocations of `ContextVar.set` fail: tasks of
# handlers begin with one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("kind", "failures"),
    [
        *[(kind, 1) for kind in ("plain", "async", "bounded", "batch", "async batch")],
        *[(kind, 3) for kind in ("plain", "batch")],
    ],
)
def test_what_comes_is_handled_or_the_link_ends(kind: str, failures: int) -> None:
    failed = True
    begun: list[bytes] = []
    ended: list[bytes] = []

    def plain(message: Message) -> bytes:
        begun.append(message.payload)
        return message.payload

    async def later(message: Message) -> bytes:
        begun.append(message.payload)
        await asyncio.sleep(0)
        ended.append(message.payload)
        return message.payload

    def batch(messages: list[Message]) -> None:
        begun.extend([message.payload for message in messages])

    async def batch_later(messages: list[Message]) -> None:
        begun.extend([message.payload for message in messages])
        await asyncio.sleep(0)

    with memory_node() as (loop, node):
        add: dict[str, Callable[[], object]] = {
            "plain": lambda: node.node.handler("to")(plain),
            "async": lambda: node.node.handler("to")(later),
            "bounded": lambda: node.node.handler("to", concurrency=1)(later),
            "batch": lambda: node.node.handler("to", batch=True)(batch),
            "async batch": lambda: node.node.handler("to", batch=True)(batch_later),
        }
        add[kind]()
        numbered = frames.confirm if "batch" in kind else frames.call
        for start in starts(lambda: failed):  # noqa: B023
            peer = Peer(node, "to")
            begun.clear()
            data = b"".join(
                frames.message(0, b"%d" % number)
                if number % 2
                else numbered(0, number + 1, b"%d" % number)
                for number in range(6)
            )
            view = peer.end.callbacks.get_buffer(-1)
            view[: len(data)] = data
            raised = raises(
                lambda: peer.end.callbacks.buffer_updated(len(data)),  # noqa: B023
                start,
                failures,
            )
            loop.turn()
            errors = node.take_errors()
            failed = raised or peer.end.state is not State.UP or bool(errors)
            failed = failed or len(begun) < 6
            # What a handler was given is what was sent, in order, and once.
            assert begun == sorted(set(begun))
            if raised:
                # The loop closes the transport of a protocol that raises.
                peer.end.transport.aborted = True
                peer.end.callbacks.connection_lost(None)
            if has_ended(peer):
                continue
            peer.read()
            answered = {number for kind_, number, _ in peer.got if kind_ != frames.PING}
            assert answered == {1, 3, 5}
            peer.got.clear()
            assert peer.end.protocol.unfinished() == {}
            check_that_it_goes_on(loop, peer, [])
            begun.clear()
            peer.end.feed(frames.message(0, b"once more"))
            assert begun == [b"once more"]
