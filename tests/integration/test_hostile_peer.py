"""Peers with a good certificate and bad manners, over real TLS, on either side.

What each of them does ends its own link with `ProtocolError`, or is tolerated where
docs/wire-format.md says so; a link with another node goes on all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastnode import LinkLost, Message, Node, Peer, ProtocolError, Route
from fastnode.limits import MAX_EXTENSION_BYTES
from fastnode.link.machine import FRAMES, State
from fastnode.wire.kinds import KINDS
from helpers import frames
from helpers.forge import Forger
from helpers.nodes import WAIT_SECONDS, A, B, introduce, running, until
from helpers.pki import manager
from helpers.raw import Raw

KIB, MIB = 1 << 10, 1 << 20
NEIGHBOUR = "gamma@127.0.0.1"
TICKET = bytes(range(16))
#: What the process may grow by, whatever a peer sends.
ROOM = 48 * MIB
#: A sanitizer keeps what was freed.
SANITIZED = "LD_PRELOAD" in os.environ
NUMBER = struct.pack(">I", 1)
#: A body of each kind that breaks no rule.
BODIES = {
    frames.HELLO: frames.hello(A, features=frames.feature(frames.HANDOVER))[8:],
    frames.ACCEPT: b"",
    frames.ENDPOINT: b"echo",
    frames.MESSAGE: b"hi",
    frames.CALL: struct.pack(">I", 77) + b"hi",
    frames.REPLY: NUMBER,
    frames.ERROR: NUMBER + bytes(4),
    frames.CONTINUE: b"part",
    frames.CREDIT: bytes(4),
    frames.CANCEL: NUMBER,
    frames.PING: bytes(8),
    frames.PONG: bytes(8),
    frames.GOODBYE: frames.reason(1),
    frames.MOVED: b"",
    frames.RECONNECT: b"",
    frames.STAY: frames.reason(28),
    frames.CONFIRM: struct.pack(">I", 78) + b"hi",
    frames.PAUSE: b"echo",
    frames.RESUME: b"echo",
    frames.DROPPED: NUMBER + b"echo",
    frames.LEAVING: NUMBER,
}
#: Kinds that are taken only where EXTENSIONS is in effect.
NEW_KINDS = {kind.number for kind in KINDS if kind.feature == "EXTENSIONS"}
METADATA = frames.field(frames.METADATA, frames.entry(b"trace-id", b"abc"))
#: A frame with an extension block of each kind that may have one. None breaks a rule.
EXTENDED = {
    frames.MESSAGE: frames.extended(frames.MESSAGE, b"", METADATA, b"hi"),
    frames.CALL: frames.extended(
        frames.CALL, struct.pack(">I", 79), METADATA, b"hi"),
    frames.CONFIRM: frames.extended(
        frames.CONFIRM, struct.pack(">I", 80), METADATA, b"hi"),
    frames.REPLY: frames.extended(frames.REPLY, NUMBER, METADATA),
    frames.ERROR: frames.extended(frames.ERROR, NUMBER, METADATA, bytes(4)),
}  # fmt: skip
#: Kinds that are taken, by state. There is nothing that CONTINUE could continue.
UP = FRAMES[State.UP] - {frames.CONTINUE}
TAKEN = {
    "hello": {frames.HELLO, frames.GOODBYE},
    "deciding": {frames.GOODBYE},
    "accepted": {frames.ACCEPT, frames.GOODBYE},
    "up": UP,
    "moved": UP - {kind.number for kind in KINDS if kind.until_moved},
    "retiring": UP,
    "closing": UP,
    "goodbye": {kind.number for kind in KINDS if kind.after_goodbye},
}
#: What the link is then. "moved" and "goodbye": after the attacker's own.
STATES = {
    "hello": State.HELLO,
    "deciding": State.DECIDING,
    "accepted": State.ACCEPTED,
    "up": State.UP,
    "moved": State.UP,
    "retiring": State.RETIRING,
    "closing": State.CLOSING,
    "goodbye": State.CLOSING,
}
#: Lengths of a body that are no fault by themselves.
LEAST_MOST = {
    kind.number: (kind.least, 65_528 if kind.most is None else kind.most)
    for kind in KINDS
}
LENGTHS = (0, 1, 65_528, 65_529, 1 << 31, (1 << 32) - 1)


def context(*, server: bool) -> ssl.SSLContext:
    """A fresh one: as dialer we are alpha, and as acceptor too."""
    made = manager(A)
    return made.server_context() if server else made.client_context()


class Hostile(Raw):
    """One end of a TLS connection; the other end is the node's."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(reader, writer)
        self.protocol: Any = None
        self.successor: Hostile | None = None

    def close(self) -> None:
        """Cut it, and the connection that succeeds it."""
        super().close()
        if self.successor is not None:
            self.successor.close()


class Scene:
    """The node that is attacked, its neighbour, and attackers of either role."""

    def __init__(self, node: Node, neighbour: Node) -> None:
        self.node = node
        self.neighbour = neighbour
        self._queue: asyncio.Queue[Hostile] = asyncio.Queue()
        #: Features that attackers announce besides HANDOVER.
        self.more = b""
        #: Nobody is judged while it is cleared.
        self.verdict = asyncio.Event()
        self.verdict.set()

    def arrived(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._queue.put_nowait(Hostile(reader, writer))

    @asynccontextmanager
    async def attacker(
        self, state: str, *, dials: bool, extends: bool = False
    ) -> AsyncIterator[Hostile]:
        """A connection on which the node is in that state.

        Args:
            dials: who made the connection: the attacker, or the node.
            extends: the attacker announces EXTENSIONS, as the node does.
        """
        self.more = frames.feature(frames.EXTENSIONS) if extends else b""
        before = set(self.node._links)
        connecting: asyncio.Future[Any] | None = None
        if dials:
            peer = await self._dial()
        else:
            connecting = asyncio.ensure_future(self.node.connect(A))
            peer = await self._queue.get()
        try:
            await until(lambda: set(self.node._links) - before)
            (peer.protocol,) = set(self.node._links) - before
            await until(lambda: peer.protocol.state is not State.TLS)
            await self._bring(peer, state, dials)
            assert peer.protocol.state is STATES[state]
            yield peer
        finally:
            peer.close()
            self.verdict.set()
            if connecting is not None:
                connecting.cancel()
                await asyncio.wait([connecting])
            # A node that was asked to may have dialed us once more.
            await until(lambda: self._hung_up() and not self._open(before))

    async def _dial(self) -> Hostile:
        return Hostile(
            *await asyncio.open_connection(
                *self.node.acceptors[0].address,
                ssl=context(server=False),
                server_hostname="127.0.0.1",
            )
        )

    def _hung_up(self) -> bool:
        while not self._queue.empty():
            self._queue.get_nowait().close()
        return not self.node._links.dials

    def _open(self, before: set[Any]) -> list[Any]:
        """Connections that are there since; handlers may run on without theirs."""
        return [p for p in self.node._links if p not in before and not p.gone.done()]

    async def _bring(self, peer: Hostile, state: str, dials: bool) -> None:
        if not dials:
            assert (await peer.frame())[0] == frames.HELLO
        if state == "hello":
            return
        if state == "deciding":
            self.verdict.clear()
        offer = frames.feature(frames.HANDOVER, b"" if dials else TICKET)
        peer.writer.write(frames.hello(A, features=offer + self.more))
        if state == "deciding":
            await until(lambda: peer.protocol.state is State.DECIDING)
            return
        ticket: bytes | None = TICKET
        if dials:
            ticket = (await peer.hello()).ticket
        else:
            assert (await peer.frame())[0] == frames.ACCEPT
        if state == "accepted":
            return
        if dials:
            peer.writer.write(frames.frame(frames.ACCEPT))
        await until(lambda: peer.protocol.state is State.UP)
        peer.writer.write(frames.frame(frames.ENDPOINT, b"echo", number=0))
        if state != "up":
            await self._bring_on(peer, state, dials, ticket)

    async def _bring_on(
        self, peer: Hostile, state: str, dials: bool, ticket: bytes | None
    ) -> None:
        """From a link that is up to what comes after that."""
        if state == "moved":
            peer.writer.write(frames.frame(frames.MOVED))
            await answered(peer)
        elif state == "retiring":
            # A call that waits keeps the node from ending it when we have moved too.
            peer.writer.write(frames.frame(frames.ENDPOINT, b"wait", number=1))
            peer.writer.write(frames.call(1, 9, b""))
            await until(lambda: peer.protocol.running)
            assert ticket is not None
            peer.successor = await self._succeed(peer, ticket, dials)
            await until(lambda: peer.protocol.state is State.RETIRING)
        elif state == "goodbye":
            # A call that waits keeps the node from answering with its own at once.
            peer.writer.write(frames.frame(frames.ENDPOINT, b"wait", number=1))
            peer.writer.write(frames.call(1, 9, b""))
            peer.writer.write(frames.frame(frames.GOODBYE, frames.reason(1)))
            await until(lambda: peer.protocol.state is State.CLOSING)
        elif state == "closing":
            peer.writer.write(frames.frame(frames.ENDPOINT, b"wait", number=1))
            peer.writer.write(frames.call(1, 9, b""))
            await until(lambda: peer.protocol.running)
            closing = asyncio.ensure_future(peer.protocol.link.close())
            await until(lambda: peer.protocol.state is State.CLOSING)
            closing.add_done_callback(lambda task: task.exception())

    async def _succeed(self, peer: Hostile, ticket: bytes, dials: bool) -> Hostile:
        """A further connection, which takes the place of that one."""
        claim = frames.feature(frames.SUCCEEDS, ticket) + self.more
        if dials:
            new = await self._dial()
            offer = frames.feature(frames.HANDOVER)
            new.writer.write(frames.hello(A, features=offer + claim))
            assert (await new.hello()).succeeds == ticket
            new.writer.write(frames.frame(frames.ACCEPT))
            return new
        peer.writer.write(frames.frame(frames.RECONNECT))
        new = await self._queue.get()
        assert (await new.hello()).succeeds == ticket
        offer = frames.feature(frames.HANDOVER, TICKET[::-1])
        new.writer.write(frames.hello(A, features=offer + claim))
        assert (await new.frame())[0] == frames.ACCEPT
        return new

    async def healthy(self) -> None:
        """The node still serves its neighbour, on the link that it had."""
        link = await self.neighbour.connect(B)
        assert await link.call("echo", b"well?", timeout=WAIT_SECONDS) == b"well?"
        assert link.stats.calls_sent > 1

    def log_lines(self, caplog: pytest.LogCaptureFixture) -> int:
        return sum(r.levelno >= logging.WARNING for r in caplog.records)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """A node with a neighbour, and an address where nobody good listens."""
    verdicts: list[asyncio.Event] = []

    async def authorize(peer: Peer) -> bool:
        for verdict in verdicts:
            await verdict.wait()
        return True

    async with running(B, keepalive_interval=60.0, authorize=authorize) as node:

        @node.handler("echo")
        def echo(message: Message) -> bytes:
            return message.payload

        @node.handler("wait")
        async def wait(message: Message) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with running(NEIGHBOUR, listens=False) as neighbour:
            introduce(neighbour, node)
            made = Scene(node, neighbour)
            verdicts.append(made.verdict)
            link = await neighbour.connect(B)
            assert await link.call("echo", b"") == b""
            server = await asyncio.start_server(
                made.arrived, "127.0.0.1", 0, ssl=context(server=True)
            )
            try:
                address = server.sockets[0].getsockname()[:2]
                node.add_route(Route(f"^{A}$", *address))
                before = resident()
                yield made
                await made.healthy()
                assert resident() - before < ROOM or SANITIZED
                (left,) = node.links
                assert left.peer.name == NEIGHBOUR
            finally:
                server.close()
                await server.wait_closed()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def refused(peer: Hostile) -> None:
    """The link has ended with `ProtocolError`, and the peer was told so."""
    await until(lambda: peer.protocol.error)
    assert isinstance(peer.protocol.error, ProtocolError), peer.protocol.error
    said = await peer.rest()
    goodbye = struct.pack(">BB", frames.GOODBYE, 0)
    assert struct.pack(">H", 16) in said, said
    assert goodbye in said


async def answered(peer: Hostile) -> None:
    """What was sent so far was taken, and the link lives."""
    peer.writer.write(frames.frame(frames.PING, b"12345678"))
    while await peer.until(frames.PONG) != b"12345678":
        pass


async def tolerated(peer: Hostile, kind: int) -> None:
    """Nothing was wrong with it, whatever comes of it."""
    if kind in (frames.HELLO, frames.ACCEPT):
        await until(lambda: peer.protocol.state is not State.HELLO)
    elif kind == frames.GOODBYE or (
        # Nothing is under way: the node closes the link.
        kind == frames.LEAVING and peer.protocol.state in (State.UP, State.CLOSED)
    ):
        await until(lambda: peer.protocol.state >= State.CLOSING)
    elif peer.protocol.state in (State.UP, State.RETIRING):
        await answered(peer)
    else:
        # What comes behind it is looked at only if it was taken.
        peer.writer.write(frames.frame(frames.CREDIT, struct.pack(">I", 0xFFFFFFFF)))
        await until(lambda: peer.protocol.error)
        assert "granted" in str(peer.protocol.error)
        return
    assert not isinstance(peer.protocol.error, ProtocolError), peer.protocol.error


def test_guarantee_10_no_kind_and_no_state_is_left_out() -> None:
    assert set(BODIES) == set().union(*FRAMES.values())
    # In the others nothing is taken: TLS is not there yet, or the link is over.
    assert set(STATES.values()) == {state for state in State if FRAMES[state]}
    assert set(STATES) == set(TAKEN)
    assert set(LEAST_MOST) == set(BODIES)


@pytest.mark.parametrize(
    ("state", "dials"),
    # A node that dialed is up when it has sent its ACCEPT: it never awaits one.
    [(s, d) for s in TAKEN for d in (True, False) if d or s != "accepted"],
)
async def test_guarantee_10_every_kind_in_every_state(
    state: str, dials: bool, caplog: pytest.LogCaptureFixture
) -> None:
    taken = TAKEN[state] - NEW_KINDS
    async with scene() as at:
        for kind, body in BODIES.items():
            async with at.attacker(state, dials=dials) as peer:
                peer.writer.write(frames.frame(kind, body))
                one_sided = frames.RECONNECT if dials else frames.STAY
                if kind in taken and kind != one_sided:
                    await tolerated(peer, kind)
                else:
                    await refused(peer)
        assert at.log_lines(caplog) <= 2 * len(BODIES)


@pytest.mark.parametrize(
    ("state", "dials"),
    [(s, d) for s in TAKEN for d in (True, False) if d or s != "accepted"],
)
async def test_guarantee_10_extensions_in_every_state(
    state: str, dials: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The kinds of EXTENSIONS and frames with a block, agreed on or not."""
    sent = {kind: frames.frame(kind, BODIES[kind]) for kind in NEW_KINDS} | EXTENDED
    async with scene() as at:
        for extends in (True, False):
            for kind, data in sent.items():
                async with at.attacker(state, dials=dials, extends=extends) as peer:
                    peer.writer.write(data)
                    if extends and kind in TAKEN[state]:
                        await tolerated(peer, kind)
                    else:
                        await refused(peer)
        assert at.log_lines(caplog) <= 4 * len(sent)


@pytest.mark.parametrize("dials", [True, False], ids=["dialer", "acceptor"])
@pytest.mark.parametrize("state", ["hello", "up"])
async def test_guarantee_10_extreme_lengths(state: str, dials: bool) -> None:
    async with scene() as at:
        for kind, (least, most) in LEAST_MOST.items():
            for length in sorted({*LENGTHS, most + 1}):
                if least <= length <= most or (state == "hello" and kind > 3):
                    continue
                extends = kind in NEW_KINDS
                async with at.attacker(state, dials=dials, extends=extends) as peer:
                    peer.writer.write(struct.pack(">BBHI", kind, 0, 0, length))
                    await refused(peer)
                    assert at.node._context.pool.held < 4 * MIB


ENDPOINT, MESSAGE, CALL = frames.ENDPOINT, frames.MESSAGE, frames.CALL
CREDIT, CONTINUE, MORE = frames.CREDIT, frames.CONTINUE, frames.MORE
SIZES = struct.pack(">Q", 10)
BAD = {
    "endpoint number at the bound": frames.frame(ENDPOINT, b"x", number=1024),
    "largest endpoint number": frames.frame(ENDPOINT, b"x", number=65535),
    "endpoint number out of turn": frames.frame(ENDPOINT, b"x", number=2),
    "name that is no UTF-8": frames.frame(ENDPOINT, b"\xff", number=1),
    "message to no number": frames.frame(MESSAGE, b"", number=65535),
    "call 0": frames.call(0, 0, b""),
    "call to no number": frames.call(9, 1, b""),
    "call number in use": frames.frame(ENDPOINT, b"wait", number=1)
    + frames.call(1, 5, b"") + frames.call(1, 5, b""),
    "largest credit": frames.frame(CREDIT, b"\xff" * 4),
    "credit for control": frames.frame(CREDIT, bytes(4), number=frames.CONTROL),
    "credit for whole replies": frames.frame(CREDIT, bytes(4), number=frames.REPLIES),
    "credit for no lane": frames.frame(CREDIT, bytes(4), number=7),
    "reply inside a reply": frames.frame(
        frames.REPLY, NUMBER + SIZES + b"x", flags=MORE) * 2,
    "part of a reply in control": frames.frame(
        frames.REPLY, NUMBER + SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, bytes(9), number=frames.CONTROL),
    "part of a reply among whole ones": frames.frame(
        frames.REPLY, NUMBER + SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, bytes(9), number=frames.REPLIES),
    "reply in the lane of messages": frames.frame(
        frames.REPLY, NUMBER, flags=frames.BULK << 1),
    "message in the lane of replies": frames.message(0, b"", frames.BULK_REPLIES),
    "unknown flag": frames.frame(MESSAGE, flags=0x80),
    "more on a ping": frames.frame(frames.PING, bytes(8), flags=MORE),
    "unknown kind": frames.frame(22),
    "kind 0": frames.frame(0),
    "largest kind": frames.frame(255),
    "total beyond the limit": frames.frame(
        MESSAGE, struct.pack(">Q", (64 << 20) + 1) + b"x", flags=MORE),
    "largest total": frames.frame(MESSAGE, b"\xff" * 8 + b"x", flags=MORE),
    "total of what came": frames.frame(MESSAGE, SIZES + bytes(10), flags=MORE),
    "empty first part": frames.frame(MESSAGE, SIZES, flags=MORE),
    "empty part": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, b"", flags=MORE),
    "part that is too long": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, bytes(10)),
    "last part too early": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, b"x"),
    "message inside a message": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.message(0, b""),
    "moved inside a message": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.frame(frames.MOVED),
    "part of the wrong lane": frames.frame(MESSAGE, SIZES + b"x", flags=MORE)
    + frames.frame(CONTINUE, bytes(9), number=1),
    "part of no lane": frames.frame(CONTINUE, b"x", number=2),
    "error whose name is too long": frames.frame(
        frames.ERROR, NUMBER + struct.pack(">HH", 1, 65535)),
    "goodbye whose text is too long": frames.frame(
        frames.GOODBYE, struct.pack(">HH", 1, 65535)),
    # Nothing is granted while the handlers hold the window.
    "more than the window": frames.frame(ENDPOINT, b"wait", number=1)
    + frames.message(1, bytes(65_000)) * 30,
}  # fmt: skip


async def test_guarantee_10_extreme_numbers_and_parts_out_of_order() -> None:
    async with scene() as at:
        for data in BAD.values():
            for dials in (True, False):
                async with at.attacker("up", dials=dials) as peer:
                    peer.writer.write(data)
                    await refused(peer)


#: Fields that break a rule of "Extension blocks" in docs/wire-format.md.
BROKEN = {
    "a type alone": b"\1",
    "a field that is cut off": frames.field(frames.DEADLINE, bytes(8))[:-1],
    "a later field that is cut off": frames.field(99, b"?")[:-1],
    "the longest size": b"\xc8\xff\xff",
    "a short deadline": frames.field(frames.DEADLINE, bytes(7)),
    "two deadlines": frames.field(frames.DEADLINE, b"\xff" * 8) * 2,
    "a long request": frames.field(frames.REQUEST, bytes(17) + b"\1\1"),
    "attempt 0": frames.field(frames.REQUEST, bytes(18)),
    "metadata twice": METADATA * 2,
    "an entry that is cut off": frames.field(
        frames.METADATA, frames.entry(b"a", b"bc")[:-1]),
    "a name in upper case": frames.field(frames.METADATA, frames.entry(b"A", b"")),
    "an empty name": frames.field(frames.METADATA, frames.entry(b"", b"a")),
    "a name twice": frames.field(frames.METADATA, frames.entry(b"a", b"b") * 2),
    "a value that is no UTF-8": frames.field(
        frames.METADATA, frames.entry(b"a", b"\xff")),
    "a value with a new line": frames.field(
        frames.METADATA, frames.entry(b"a", b"b\nc")),
    "too many entries": frames.field(
        frames.METADATA, b"".join(frames.entry(b"%d" % n, b"") for n in range(65))),
    "too much metadata": frames.field(
        frames.METADATA, frames.entry(b"a", b"b" * (16 << 10))),
    "a status without a code": frames.field(frames.STATUS, b""),
    "a code that is too long": frames.field(frames.STATUS, b"\x41" + b"a" * 65),
    "a code in upper case": frames.field(frames.STATUS, b"\1A"),
    "details that are too long": frames.field(
        frames.STATUS, b"\1a" + bytes((16 << 10) + 1)),
}  # fmt: skip
#: Of each kind that may have a block: what stands before it.
PREFIXES = {
    MESSAGE: b"",
    CALL: NUMBER,
    frames.CONFIRM: NUMBER,
    frames.REPLY: NUMBER,
    frames.ERROR: NUMBER,
}
#: What must follow the block.
RESTS = {frames.ERROR: bytes(4)}


async def test_guarantee_10_broken_blocks() -> None:
    async with scene() as at:
        for kind, prefix in PREFIXES.items():
            for number, block in enumerate(BROKEN.values()):
                rest = RESTS.get(kind, b"")
                dials = bool((kind + number) % 2)
                async with at.attacker("up", dials=dials, extends=True) as peer:
                    peer.writer.write(frames.extended(kind, prefix, block, rest))
                    await refused(peer)


def sized(kind: int, prefix: bytes, size: int, rest: bytes = b"") -> bytes:
    """A frame whose block has another size than it says."""
    body = prefix + struct.pack(">H", size) + rest
    return frames.frame(kind, body, flags=frames.EXTENDED)


async def test_guarantee_10_blocks_in_the_wrong_place() -> None:
    # On a kind that has none, whatever else is right.
    bad = [
        frames.frame(kind, body, flags=frames.EXTENDED)
        for kind, body in BODIES.items()
        if kind not in PREFIXES
    ]
    for kind, prefix in PREFIXES.items():
        rest = RESTS.get(kind, b"")
        bad += [
            # No size, half of one, and more than there is, or than there may be.
            frames.frame(kind, prefix, flags=frames.EXTENDED),
            frames.frame(kind, prefix + b"\0", flags=frames.EXTENDED),
            sized(kind, prefix, 1),
            sized(kind, prefix, 65535, rest),
            sized(kind, prefix, MAX_EXTENSION_BYTES + 1, bytes(20_000)),
        ]
    bad += [
        # The block takes the place of what must follow it.
        frames.extended(frames.ERROR, NUMBER, METADATA, bytes(3)),
        # Only the first frame of a message has a block, which is no part of it.
        frames.extended(MESSAGE, SIZES, METADATA, flags=MORE),
        frames.extended(MESSAGE, SIZES, METADATA, bytes(10), flags=MORE),
        frames.extended(MESSAGE, SIZES, METADATA, b"x", flags=MORE)
        + frames.frame(CONTINUE, bytes(9), flags=frames.EXTENDED),
        frames.extended(MESSAGE, SIZES, METADATA, b"x", flags=MORE)
        + frames.extended(MESSAGE, b"", METADATA),
        # It is read when the message is whole.
        frames.extended(MESSAGE, SIZES, b"\1", b"x", flags=MORE)
        + frames.frame(CONTINUE, bytes(9)),
        frames.extended(frames.REPLY, NUMBER + SIZES, b"\1", b"x", flags=MORE)
        + frames.frame(CONTINUE, bytes(9), number=frames.BULK_REPLIES),
        frames.dropped(b"\xff"),
        frames.frame(frames.PAUSE, b"\xff"),
        frames.frame(frames.RESUME, b"\xff"),
    ]
    async with scene() as at:
        for number, data in enumerate(bad):
            dials = bool(number % 2)
            async with at.attacker("up", dials=dials, extends=True) as peer:
                peer.writer.write(data)
                await refused(peer)
                assert at.node._context.pool.held < 4 * MIB


LONGEST = frames.field(frames.DEADLINE, b"\xff" * 8)


async def test_guarantee_10_blocks_that_say_odd_things() -> None:
    """Fields that a kind has no use for, unknown ones, and the longest time."""
    async with scene() as at:
        seen: list[Message] = []

        @at.node.handler("look")
        def look(message: Message) -> bytes:
            seen.append(message)
            return message.payload

        @at.node.handler("relay")
        async def relay(message: Message) -> bytes:
            # What is left of the attacker's time goes with this call.
            return await at.node.call(NEIGHBOUR, "left", b"")

        @at.neighbour.handler("left")
        def left(message: Message) -> bytes:
            return repr(message.time_left).encode()

        async with at.attacker("up", dials=True, extends=True) as peer:
            write = peer.writer.write
            write(frames.endpoint(1, b"look") + frames.endpoint(2, b"relay"))
            # Nobody waits for these.
            write(frames.extended(frames.REPLY, NUMBER, METADATA + LONGEST))
            status = frames.field(frames.STATUS, b"\4busy")
            write(frames.extended(frames.ERROR, NUMBER, status, bytes(4)))
            # A message has no deadline, and no status.
            over = frames.field(frames.DEADLINE, bytes(8))
            later = frames.field(0, b"?") * 2 + frames.field(255, bytes(8000)) * 2
            write(frames.extended(MESSAGE, b"", over + status + later, b"1", number=1))
            await answered(peer)
            [message] = seen
            assert (message.payload, message.deadline) == (b"1", None)
            assert message.time_left is None
            assert not message.metadata
            # The time is over when it comes: the handler does not begin.
            write(frames.extended(CALL, NUMBER, over, b"2", number=1))
            assert (await peer.until(frames.ERROR))[:6] == NUMBER + b"\0\4"
            assert len(seen) == 1
            # The longest time is one, and is passed on.
            write(frames.extended(CALL, NUMBER, LONGEST, b"3", number=1))
            assert await peer.until(frames.REPLY) == NUMBER + b"3"
            assert seen[1].deadline is not None
            assert 1.8e13 < seen[1].deadline < 1.9e13
            write(frames.extended(CALL, NUMBER, LONGEST, number=2))
            assert 1.8e13 < float((await peer.until(frames.REPLY))[4:]) < 1.9e13
            # An empty block says nothing.
            write(frames.extended(CALL, NUMBER, b"", b"4", number=1))
            assert await peer.until(frames.REPLY) == NUMBER + b"4"
            assert seen[2].deadline is None
            await answered(peer)


async def test_guarantee_10_cut_at_every_place() -> None:
    """In the middle of whatever is under way TLS ends in order, or the connection."""
    first = frames.message(0, b"hi")
    whole = first + frames.call(0, 3, bytes(5000))
    async with scene() as at:
        for number, cut in enumerate((*range(1, 23), 30, len(whole) - 1)):
            async with at.attacker("up", dials=bool(number % 2)) as peer:
                peer.writer.write(whole[:cut])
                if number % 4 < 2:
                    await peer.writer.drain()
                    peer.writer.close()
                else:
                    peer.close()
                await until(lambda: peer.protocol.error)
                assert type(peer.protocol.error) is LinkLost, peer.protocol.error
                # Half a message is none.
                stats = peer.protocol.stats()
                assert stats.messages_received <= (cut >= len(first))
                assert stats.calls_received == 0


def pings(count: int) -> bytes:
    return frames.frame(frames.PING, bytes(8)) * count


FLOODS = {
    "pings": pings(1000),
    "tiny messages": frames.message(0, b"") * 2000,
    "cancels": b"".join(
        frames.frame(frames.CANCEL, struct.pack(">I", number))
        for number in range(1, 9000, 7)
    ),
    "pongs": frames.frame(frames.PONG, bytes(8)) * 2000,
    "credits of 0": frames.frame(CREDIT, bytes(4)) * 2000,
    "replies that nobody waits for": frames.reply(9, bytes(1000)) * 100,
    "large replies that nobody waits for": frames.reply(9, bytes(200_000)),
    "errors that nobody waits for": frames.frame(frames.ERROR, NUMBER + bytes(4)) * 900,
    "calls to nobody": frames.frame(ENDPOINT, b"none", number=1)
    + b"".join(frames.call(1, number, b"") for number in range(1, 2000)),
    "messages to nobody": frames.frame(ENDPOINT, b"none", number=1)
    + frames.message(1, b"") * 2000,
    "definitions": b"".join(
        frames.frame(ENDPOINT, b"%0255d" % number, number=number)
        for number in range(1, 1024)
    ),
    "one number, many names": b"".join(
        frames.frame(ENDPOINT, b"%0255d" % number, number=0) for number in range(1000)
    ),
}
#: Those of a peer with which EXTENSIONS is in effect.
EXTENDED_FLOODS = {
    "drops of one name": frames.dropped(b"nobody", 0xFFFFFFFF) * 1000,
    "drops of many names": b"".join(
        frames.dropped(b"%0255d" % number, number) for number in range(1000)
    ),
    "pauses": b"".join(
        frames.frame(frames.PAUSE, b"%0255d" % number) for number in range(1000)
    ),
    "pauses and resumes": (
        frames.frame(frames.PAUSE, b"echo") + frames.frame(frames.RESUME, b"echo")
    )
    * 1000,
    "metadata": frames.extended(
        MESSAGE,
        b"",
        frames.field(
            frames.METADATA,
            b"".join(frames.entry(b"%d" % n, bytes([65]) * 250) for n in range(64)),
        ),
    )
    * 100,
    "replies with metadata that nobody waits for": EXTENDED[frames.REPLY] * 1000,
    "calls whose time is over": b"".join(
        frames.extended(
            CALL, struct.pack(">I", number), frames.field(frames.DEADLINE, bytes(8))
        )
        for number in range(1, 1000)
    ),
}
#: How many messages were dropped, by what a peer says.
DROPS = {
    "drops of one name": 0xFFFFFFFF * 1000,
    "drops of many names": sum(range(1000)),
}
#: How often a flood comes.
TIMES = 20


@pytest.mark.parametrize("flood", [*FLOODS, *EXTENDED_FLOODS])
async def test_guarantee_9_floods_are_tolerated_and_bounded(
    flood: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as at:
        began = time.monotonic()
        extends = flood in EXTENDED_FLOODS
        async with at.attacker("up", dials=True, extends=extends) as peer:
            for number in range(TIMES):
                data = (FLOODS | EXTENDED_FLOODS)[flood]
                if number and flood in ("calls to nobody", "messages to nobody"):
                    data = data[12:]  # the name travels once
                peer.writer.write(data)
                peer.writer.write(frames.frame(frames.PING, struct.pack(">Q", number)))
                while await peer.until(frames.PONG) != struct.pack(">Q", number):
                    pass
                assert at.node._context.pool.held < 8 * MIB
            await at.healthy()
            assert peer.protocol.state is State.UP
            dropped = peer.protocol.link.stats.messages_dropped_by_peer
        assert at.log_lines(caplog) < 20
        if flood.startswith("drops"):
            assert dropped == DROPS[flood] * TIMES
            # At most one a second, whatever the names.
            assert at.log_lines(caplog) <= 2 + time.monotonic() - began


@pytest.mark.parametrize("frame", [frames.STAY, frames.RECONNECT, frames.MOVED])
async def test_guarantee_9_floods_of_a_succession(frame: int) -> None:
    async with scene() as at:
        dials = frame == frames.STAY
        async with at.attacker("up", dials=dials) as peer:
            peer.writer.write(frames.frame(frame, BODIES[frame]) * 5000)
            if frame == frames.MOVED:
                await refused(peer)
            else:
                await tolerated(peer, frame)
                assert len(list(at.node._links)) <= 3
            await at.healthy()


async def test_guarantee_9_a_flood_of_announcements_to_leave() -> None:
    """The first one has the node close the link in order; the others change nothing."""
    async with scene() as at:
        async with at.attacker("up", dials=True, extends=True) as peer:
            peer.writer.write(frames.leaving(0xFFFFFFFF) * 10_000)
            await until(lambda: peer.protocol.state >= State.CLOSING)
            assert (await peer.until(frames.GOODBYE))[:2] == b"\0\1"
            await at.healthy()
            peer.writer.write(frames.frame(frames.GOODBYE, frames.reason(1)))
            await until(lambda: peer.protocol.error)
            assert not isinstance(peer.protocol.error, ProtocolError | LinkLost)


async def test_guarantee_9_empty_records(tmp_path: Path) -> None:
    """OpenSSL takes some in a row; many are a failure of TLS."""
    async with scene() as at:
        before = set(at.node._links)
        forger = await Forger.connect(
            at.node.acceptors[0].address, context(server=False), tmp_path / "keys"
        )
        try:
            await until(lambda: set(at.node._links) - before)
            (protocol,) = set(at.node._links) - before
            for part in (frames.hello(A), frames.frame(frames.ACCEPT)):
                forger.writer.write(forger.record(part))
                for _ in range(20):
                    forger.writer.write(forger.record(b""))
                if part[0] == frames.HELLO:
                    assert (await forger.read())[0] == frames.HELLO
            await until(lambda: protocol.state is State.UP)
            for number in range(20_000):
                forger.writer.write(forger.record(b""))
                if number % 1000 == 0:
                    with contextlib.suppress(ConnectionError):
                        await forger.writer.drain()
                    await at.healthy()
            await at.healthy()
            assert at.node._context.pool.held < 4 * MIB
            # Without a word from us: we are still there.
            await until(lambda: protocol.error)
            assert type(protocol.error) is LinkLost
            assert "TLS failed" in str(protocol.error)
        finally:
            forger.close()
            await protocol.wait_gone()


@pytest.mark.parametrize("asks", [False, True])
async def test_guarantee_9_a_flood_of_key_updates(tmp_path: Path, asks: bool) -> None:
    async with scene() as at:
        before = set(at.node._links)
        forger = await Forger.connect(
            at.node.acceptors[0].address, context(server=False), tmp_path / "keys"
        )
        try:
            await until(lambda: set(at.node._links) - before)
            (protocol,) = set(at.node._links) - before
            forger.writer.write(forger.record(frames.hello(A)))
            assert (await forger.read())[0] == frames.HELLO
            forger.writer.write(forger.record(frames.frame(frames.ACCEPT)))
            await until(lambda: protocol.state is State.UP)
            for number in range(3000):
                forger.writer.write(forger.key_update(asks=asks))
                if number % 500 == 0:
                    await forger.writer.drain()
                    await at.healthy()
            # Answers are not one for one, and the link still works.
            forger.writer.write(forger.record(frames.frame(frames.PING, bytes(8))))
            assert (await forger.read())[0] == frames.PONG
            assert protocol.state is State.UP
            assert protocol.stats().bytes_sent < 1 * MIB
        finally:
            forger.close()
            await protocol.wait_gone()
