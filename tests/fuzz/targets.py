"""What is fuzzed: functions of some bytes that raise only where something is wrong.

Each is told in its docstring what the bytes mean. `tests/fuzz/README.md` says how they
are run; `tests/unit/test_fuzz_corpus.py` runs them over the committed corpus.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from fastnode import (
    CallError,
    CertManager,
    FastnodeError,
    Message,
    ProtocolError,
    Reply,
)
from fastnode.buffers.pool import BufferPool, live_slabs
from fastnode.errors import CloseReason
from fastnode.link.machine import State
from fastnode.openssl.burden import burden
from fastnode.openssl.verdict import BURDENS
from fastnode.wire.call_error import decode_call_error, encode_call_error
from fastnode.wire.decoder import Decoder
from fastnode.wire.extension import decode, encode, encode_status, encode_time_left
from fastnode.wire.goodbye import decode_goodbye, encode_goodbye
from fastnode.wire.hello import Hello
from helpers import frames
from helpers.memory import MemoryEnd, MemoryNode, TurnLoop, running_loop
from helpers.nodes import A, B
from helpers.pki import manager

__all__ = ["TARGETS"]

KIB = 1 << 10
#: Small, so that a fuzzer reaches the limits: of a message, and of the window.
MAX_MESSAGE: Final = 200 * KIB
WINDOW: Final = 128 * KIB
TICKET = bytes(range(16))


# --- certificates ------------------------------


def certificates(data: bytes) -> None:
    """Byte 0: odd for TLS 1.3. The rest: the body of a Certificate message.

    The walk through certificates ends, and reads nothing behind the end.
    """
    version = 0x0304 if data and data[0] & 1 else 0x0303
    body = data[1:]
    found = burden(b"\x0b" + len(body).to_bytes(3) + body, version)
    assert found is None or found[0] in BURDENS


# --- the codec ------------------------------------------------------------------


#: In byte 0 of `decoder`, `handshake_decoder` and `link`: both sides have announced
#: EXTENSIONS.
AGREED: Final = 128


def decoder(data: bytes) -> None:
    """Byte 0: into how large pieces the rest is cut (0: it is not cut), and `AGREED`.
    The rest: frames."""
    slabs = live_slabs()
    how = data[0] if data else 0
    found = []
    for piece in {0, how & ~AGREED}:
        decoder = Decoder(BufferPool(), max_message=MAX_MESSAGE)
        decoder.extend(bool(how & AGREED))
        got: list[object] = []
        try:
            for part in _pieces(data[1:], piece):
                for frame, block in decoder.feed(part, blocks=True):
                    assert block is None or how & AGREED
                    got.append((frame, block))
        except ProtocolError:
            got.append("malformed")
        finally:
            decoder.close()
        assert not decoder.unfinished
        found.append(got)
    # What is cut is found earlier, so what comes before an error may be more.
    assert found[0][:-1] == found[-1][: len(found[0][:-1])] or "malformed" in found[0]
    assert live_slabs() == slabs


def handshake_decoder(data: bytes) -> None:
    """As `decoder`, within the limits of a peer that is not known yet."""
    slabs = live_slabs()
    decoder = Decoder(BufferPool(), max_frame=4 * KIB + 8, max_message=0)
    how = data[0] if data else 0
    decoder.extend(bool(how & AGREED))
    try:
        for part in _pieces(data[1:], how & ~AGREED):
            for _, _, _, payload in decoder.feed(part):
                assert payload is None or len(payload) <= 4 * KIB
    except ProtocolError:
        pass
    finally:
        decoder.close()
    assert live_slabs() == slabs


def hello(data: bytes) -> None:
    """The body of a HELLO."""
    try:
        found = Hello.decode(data)
    except ProtocolError:
        return
    assert found.max_frame <= 64 * KIB
    assert 0 < found.endpoints <= 1 << 16
    # What we would say again means the same.
    assert Hello.decode(found.encode()) == found


def goodbye(data: bytes) -> None:
    """The body of a GOODBYE or STAY, at least 4 bytes as the decoder sees to."""
    try:
        code, text, hint = decode_goodbye(data.ljust(4, b"\0"))
    except ProtocolError:
        return
    again = decode_goodbye(encode_goodbye(code, text, hint))
    assert again[0] == code
    assert text.startswith(again[1])
    assert hint.startswith(again[2])


def extension(data: bytes) -> None:
    """An extension block. What can be read means the same when it is made again."""
    try:
        found = decode(data)
    except ProtocolError:
        return
    assert found.time_left == -1 or 0 <= found.time_left < 1.9e13
    assert 0 <= encode_time_left(found.time_left) < 1 << 64
    again = decode(
        encode(
            deadline=found.time_left >= 0,
            request_id=found.request,
            attempt=found.attempt,
            metadata=found.metadata,
        )
    )
    assert again.time_left == (0 if found.time_left >= 0 else -1)
    assert (again.request, again.attempt) == (found.request, found.attempt)
    assert again.metadata == (found.metadata or None)
    if found.code is not None:
        assert found.details is not None
        again = decode(encode_status(found.code, found.details))
        assert (again.code, again.details) == (found.code, found.details)


#: In byte 0 of `call_error`: the frame has the flag `EXTENDED`.
EXTENDS: Final = 1


def call_error(data: bytes) -> None:
    """Byte 0: `EXTENDS` and `AGREED`. The rest: the body of an ERROR frame."""
    how = data[0] if data else 0
    try:
        found = _read_error(data[1:], bool(how & EXTENDS), bool(how & AGREED))
    except ProtocolError:
        return
    call, block, code, name, text = found
    assert block is None or how & AGREED
    body = encode_call_error(call, code, name, text, block)
    again = _read_error(body, block is not None, True)
    assert again[:3] == found[:3]
    assert name.startswith(again[3])
    assert text.startswith(again[4])
    if block is not None:
        extension(block)


def _read_error(
    body: bytes, extends: bool, agreed: bool
) -> tuple[int, bytes | None, int, str, str]:
    """The number of the call, the block, code, name and text of an ERROR frame."""
    flags = frames.EXTENDED if extends else 0
    decoder = Decoder(BufferPool())
    decoder.extend(agreed)
    try:
        got = decoder.feed(frames.frame(frames.ERROR, body, flags=flags), blocks=True)
    finally:
        decoder.close()
    [((kind, _, call, rest), block)] = got
    assert kind == frames.ERROR
    assert rest is not None
    assert (block is not None) == extends
    return (call, block, *decode_call_error(rest))


# --- links ----------------------------------------------------------------------

#: Where a link stands when the bytes come.
STAGES: Final = (
    "hello", "deciding", "accepted", "up", "busy", "retiring", "successor", "closing",
    "goodbye", "both",
)  # fmt: skip
DIALER, SLOW, LATER = 16, 32, 64


def link(data: bytes) -> None:
    """The plaintext side of a link: what its engine gives out.

    Byte 0: `STAGES` in the low four bits, then flags; with `AGREED` the peer announces
    EXTENSIONS. Byte 1: how large the pieces are
    in which it comes; 0: whole. The rest: what the peer sends.
    """
    if len(data) < 2:
        return
    how, piece = data[0], data[1]
    stage = STAGES[(how & 15) % len(STAGES)]
    with running_loop() as loop:
        node = _node(loop, holds=stage == "deciding")
        end = _reach(node, stage, dialer=bool(how & DIALER), agreed=bool(how & AGREED))
        if how & SLOW:
            end.callbacks.pause_writing()
        end.feed(data[2:], piece)
        if how & LATER:
            loop.advance(20.0)
        if how & SLOW and not end.transport.aborted:
            end.callbacks.resume_writing()
            loop.turn()
        node.finish()


def assembly(data: bytes) -> None:
    """The endpoint dictionary and messages of several frames, in a link that is up.

    Three bytes are a frame: kind and `MORE`, number, and the root of the size.
    """
    body = bytearray()
    for at in range(0, len(data) - 2, 3):
        kind, number, size = data[at : at + 3]
        body += _assembled(kind, number, size * size)
    with running_loop() as loop:
        node = _node(loop)
        end = _reach(node, "up")
        for part in _pieces(bytes(body), 9000):
            end.feed(part)
            assert node.context.pool.held <= 4 << 20
        node.finish()


def _assembled(kind: int, number: int, size: int) -> bytes:
    more = frames.MORE if kind & 128 else 0
    kind = (frames.ENDPOINT, frames.MESSAGE, frames.CALL, frames.CONTINUE)[kind % 4]
    if kind == frames.ENDPOINT:
        name = (b"echo", b"slow", b"soon", b"large", b"%d" % size)[size % 5]
        return frames.frame(kind, name, number=number)
    if kind == frames.CONTINUE:
        return frames.frame(kind, bytes(size), flags=more, number=number % 7)
    body = struct.pack(">I", number) if kind == frames.CALL else b""
    if more:
        body += struct.pack(">Q", 2 * size)
    return frames.frame(kind, body + bytes(size), flags=more, number=number % 5)


def _node(loop: TurnLoop, *, holds: bool = False, **options: Any) -> MemoryNode:
    async def wait(peer: object) -> bool:
        await asyncio.Event().wait()
        return True

    memory = MemoryNode(
        loop,
        max_message_size=MAX_MESSAGE,
        window=WINDOW,
        authorize=wait if holds else None,
        **options,
    )

    @memory.node.handler("echo")
    def echo(message: Message) -> bytes | Reply:
        _look_at(message)
        if message.metadata:
            return Reply(message.payload, message.metadata)
        return message.payload

    @memory.node.handler("slow")
    async def slow(message: Message) -> bytes:
        await asyncio.Event().wait()
        return b""

    @memory.node.handler("soon")
    async def soon(message: Message) -> bytes:
        await asyncio.sleep(0)
        _look_at(message)
        return message.payload[:10]

    @memory.node.handler("large")
    def large(message: Message) -> bytes:
        return bytes(70_000)

    @memory.node.handler("refuses")
    def refuses(message: Message) -> bytes:
        raise CallError("fuzzed", "no", details=message.payload[:100])

    return memory


def _look_at(message: Message) -> None:
    """What a handler may rely on, whatever a peer has sent."""
    assert message.deadline is None or math.isfinite(message.deadline)
    assert message.time_left is None or 0 <= message.time_left < math.inf
    assert len(message.id) == 32
    assert message.attempt >= 1
    for name, value in message.metadata.items():
        assert name == name.lower()
        assert "\n" not in value


NAMES = b"".join(
    frames.frame(frames.ENDPOINT, name, number=number)
    for number, name in enumerate([b"echo", b"slow", b"soon", b"large", b"refuses"])
)


def _reach(
    node: MemoryNode, stage: str, *, dialer: bool = False, agreed: bool = False
) -> MemoryEnd:
    """A connection that stands where it is to be attacked."""
    end = node.end(dialer=dialer)
    end.connect()
    if stage == "hello":
        return end
    offer = frames.feature(frames.HANDOVER, TICKET if dialer else b"")
    if agreed:
        offer += frames.feature(frames.EXTENSIONS)
    end.feed(frames.hello(A, features=offer))
    if stage in ("deciding", "accepted"):
        return end
    _accept(end)
    if stage == "up":
        return end
    end.feed(NAMES)
    node.loop.create_task(_use(end.protocol.link))
    node.loop.turn()
    end.feed(frames.call(1, 1, b"") + frames.message(1, bytes(2000)))
    if stage in ("retiring", "successor"):
        newer = _succeed(node, end, agreed=agreed)
        return newer if stage == "successor" else end
    if stage in ("closing", "both"):
        end.protocol.begin_close(CloseReason.CLOSED)
    if stage in ("goodbye", "both"):
        end.feed(frames.frame(frames.GOODBYE, frames.reason(1)))
    return end


def _accept(end: MemoryEnd) -> None:
    if not end.protocol.dialer:
        end.feed(frames.frame(frames.ACCEPT))
    assert end.state is State.UP, end.error
    end.transport.take()


def _succeed(node: MemoryNode, old: MemoryEnd, *, agreed: bool) -> MemoryEnd:
    """A link that has come up as the successor of another one."""
    dialer = old.protocol.dialer
    new = node.end(dialer=dialer)
    ticket = old.protocol.succession.ticket
    if dialer:
        new.protocol.succession.predecessor = old.protocol
    new.connect()
    features = frames.feature(frames.HANDOVER, TICKET[::-1] if dialer else b"")
    features += frames.feature(frames.SUCCEEDS, ticket)
    if agreed:
        features += frames.feature(frames.EXTENSIONS)
    new.feed(frames.hello(A, features=features))
    _accept(new)
    assert old.state is State.RETIRING
    return new


async def _use(link: Any) -> None:
    """What a user waits for: it ends with a documented error, or in time."""
    link.send("there", bytes(100_000))
    waits = [
        link.call("there", b"x" * 3000),
        link.request("there", b"", metadata={"a": "b"}, timeout=10.0),
        link.ping(),
        link.drain(),
    ]
    for found in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(found, FastnodeError | Reply | bytes | float | None), found


# --- TLS ------------------------------------------------------------------------


@cache
def _managers() -> tuple[CertManager, CertManager]:
    return manager(A), manager(B)


def ciphertext(data: bytes) -> None:
    """What comes instead of TLS. Byte 0: whether we dialed. Byte 1: the pieces."""
    if len(data) < 2:
        return
    with running_loop() as loop:
        node = _node(loop, manager=_managers()[1])
        end = node.end(dialer=bool(data[0] & DIALER))
        end.connect()
        end.feed(data[2:], data[1])
        assert end.state in (State.TLS, State.CLOSED)
        assert end.protocol.link is None
        node.finish()


#: What is said inside TLS by a peer that is not mutated.
SAID_BY_DIALER = (
    frames.hello(A, features=frames.feature(frames.HANDOVER)),
    frames.frame(frames.ACCEPT) + NAMES,
    frames.message(0, bytes(40_000)) + frames.call(0, 1, b"hi"),
)
SAID_BY_ACCEPTOR = (
    frames.hello(A, features=frames.feature(frames.HANDOVER, TICKET)),
    NAMES + frames.message(0, bytes(40_000)),
    frames.call(0, 1, b"hi"),
)
#: Bytes that say what is done to one TLS record.
STEP_BYTES = 4


def tls(data: bytes) -> None:
    """A real handshake and a real link, whose records are tampered with.

    Byte 0: flags. Byte 1: how many records are tampered with, in order. Four bytes for
    each of them: see `_tampered`. The rest: sent inside TLS, when the link is up.
    """
    if len(data) < 2:
        return
    dialer = bool(data[0] & DIALER)
    steps = [
        data[at : at + STEP_BYTES]
        for at in range(2, min(2 + STEP_BYTES * data[1], len(data) - 3), STEP_BYTES)
    ]
    tail = data[2 + STEP_BYTES * len(steps) :]
    harmless = not any(step[0] % 8 for step in steps)
    theirs, ours = _managers()
    with running_loop() as loop:
        node = _node(loop, manager=ours)
        end = node.end(dialer=dialer)
        peer = _TlsPeer(theirs, server_side=dialer)
        end.connect()
        said = list(SAID_BY_ACCEPTOR if dialer else SAID_BY_DIALER)
        for _ in range(12):
            peer.hear(end.transport.take())
            if peer.secure and said:
                peer.say(said.pop(0))
            for record in peer.records():
                step = steps.pop(0) if steps else bytes(STEP_BYTES)
                end.feed(_tampered(record, step))
        if harmless:
            assert end.state is State.UP, end.error
        peer.say(tail)
        for record in peer.records():
            end.feed(record)
        node.finish()


def _tampered(record: bytes, step: bytes) -> bytes:
    """One record: passed on, dropped, doubled, cut, lengthened, or changed."""
    what, place, value, size = step
    at = (place * 251 + size) % len(record)
    match what % 8:
        case 1:
            return record[:at] + bytes([record[at] ^ (value or 1)]) + record[at + 1 :]
        case 2:
            return record[:at]
        case 3:
            return record * 2
        case 4:
            return b""
        case 5:
            return bytes([value, 3, 3, size, place]) + record
        case 6:
            return record[:3] + bytes([value, size]) + record[5:]
        case 7:
            return bytes([20 + value % 5, 3, 3, 0, size]) + bytes(size) + record
        case _:
            return record


class _TlsPeer:
    """The other side of TLS, by Python's `ssl` alone."""

    def __init__(self, of: CertManager, *, server_side: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = of.server_context() if server_side else of.client_context()
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "127.0.0.1",
        )
        self.secure = False
        self._broken = False

    def hear(self, data: bytes) -> None:
        """Take in what the node has written, and go on with the handshake."""
        self._incoming.write(data)
        try:
            if not self.secure:
                self._ssl.do_handshake()
                self.secure = True
            while self._ssl.read(65536):
                pass
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._broken = True

    def say(self, data: bytes) -> None:
        """Send something inside TLS, if there is any."""
        if self.secure and not self._broken and data:
            self._ssl.write(data)

    def records(self) -> list[bytes]:
        """What there is to send, cut into TLS records."""
        data, found = self._outgoing.read(), []
        while data:
            size = 5 + int.from_bytes(data[3:5])
            found.append(data[:size])
            data = data[size:]
        return found


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "certificates": certificates,
    "decoder": decoder,
    "handshake_decoder": handshake_decoder,
    "hello": hello,
    "goodbye": goodbye,
    "extension": extension,
    "call_error": call_error,
    "assembly": assembly,
    "link": link,
    "ciphertext": ciphertext,
    "tls": tls,
}


def _pieces(data: bytes, size: int) -> list[bytes]:
    if not size:
        return [data]
    return [data[at : at + size] for at in range(0, len(data), size)]
