"""The same work, done in different ways."""

from __future__ import annotations

from contenders.floor import FloorEntrant
from entrant import Entrant, PythonEntrant

__all__ = ["BATCH", "ENTRANTS", "FASTNODE", "FLOOR", "UNTICKETED", "Entrant",
           "PythonEntrant"]  # fmt: skip

FASTNODE = "fastnode"
BATCH = "fastnode, batch handler"
FLOOR = "C"
UNTICKETED = "C, no tickets"


def _rival(
    name: str,
    about: str,
    where: str,
    *tags: str,
    requires: tuple[str, ...] = (),
    skips: tuple[str, ...] = (),
) -> PythonEntrant:
    return PythonEntrant(
        name, about, frozenset(("rival", *tags)), frozenset(skips), where, requires
    )


#: Where only the way of receiving one-way messages differs, so does only that work.
ONE_WAY_ONLY = frozenset({"call", "handshakes", "half-load", "memory"})

ENTRANTS: dict[str, Entrant] = {
    entrant.name: entrant
    for entrant in (
        PythonEntrant(
            FASTNODE,
            "link.send and drain, a handler call for each message, link.call",
            frozenset({"fastnode", "memory", "metadata"}),
            where="fastnode_link:FastnodeLink",
        ),
        PythonEntrant(
            BATCH,
            "the same, with a handler that takes lists of messages",
            frozenset({"fastnode"}),
            ONE_WAY_ONLY,
            "fastnode_link:FastnodeBatch",
        ),
        FloorEntrant(
            FLOOR,
            "plain C and OpenSSL, full records, one thread and one buffer",
            frozenset({"floor", "memory"}),
        ),
        FloorEntrant(
            UNTICKETED,
            "the same, the server sending no session tickets",
            frozenset({"floor"}),
            frozenset({"one-way", "fan-in", "call", "half-load", "memory"}),
            "no-tickets",
        ),
        _rival(
            "aiofastnet, coalesced",
            "the same Protocol as uvloop's, on aiofastnet's TLS and transport",
            "protocol:AiofastnetCoalesced",
            "coalesced", "asyncio",
            requires=("aiofastnet",),
        ),
        _rival(
            "aiofastnet, a write per message",
            "the same without joining",
            "protocol:AiofastnetProtocol",
            "asyncio", "memory",
            requires=("aiofastnet",),
        ),
        _rival(
            "uvloop, coalesced",
            "Protocol on uvloop's TLS, 64 KiB or a loop turn joined by hand",
            "protocol:UvloopCoalesced",
            "coalesced", "asyncio",
        ),
        _rival(
            "uvloop, a write per message",
            "the same, with transport.write of each message",
            "protocol:UvloopProtocol",
            "asyncio", "memory",
        ),
        _rival(
            "asyncio streams",
            "StreamWriter.write and drain, readexactly; asyncio's own loop and TLS",
            "streams:Streams",
            "asyncio", "memory",
        ),
        _rival(
            "picows",
            "WebSocket frames, a send for each message, on aiofastnet",
            "picows_frames:PicowsFrames",
            "asyncio", "memory",
            requires=("picows", "aiofastnet"),
        ),
        _rival(
            "pyzmq CURVE, blocking",
            "PUSH and PULL, DEALER and ROUTER, no loop; not TLS",
            "zmq_curve:ZmqBlocking",
            "zmq",
            requires=("zmq",),
            skips=("half-load", "handshakes", "memory"),
        ),
        _rival(
            "pyzmq CURVE, asyncio",
            "the same through zmq.asyncio, on uvloop",
            "zmq_curve:ZmqAsyncio",
            "zmq", "memory",
            requires=("zmq",),
        ),
        _rival(
            "grpcio",
            "grpc.aio, a stream of messages, unary calls; bytes as they are, BoringSSL",
            "grpc_stream:GrpcStream",
            "grpc", "memory", "metadata",
            requires=("grpc",),
        ),
    )
}  # fmt: skip
