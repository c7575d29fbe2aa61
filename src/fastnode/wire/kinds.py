"""The table of frame kinds: what each kind is, and when a peer may send it.

The rest of the package takes its rules from this table:

- `fastnode.wire.decoder`: the least and most bytes of a body, the flags, and whether a
  kind carries a payload of a user;
- `fastnode.link.machine`: the kinds that a peer may send in each state of a link;
- `fastnode.link.protocol` and `fastnode.link.succession`: the kinds that a peer may not
  send after its MOVED or GOODBYE, without a feature, or from the wrong side;
- `fastnode.sending.outbox`: the kinds that we may send after our GOODBYE.

Cython needs the numbers when it compiles, so `fastnode/wire/frame.pxd` repeats them.
`tests/contract/test_kinds.py` compares both, and docs/wire-format.md, with this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fastnode.limits import (
    MAX_ENDPOINT_NAME_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_HELLO_BYTES,
    MAX_REASON_BYTES,
)

__all__ = ["KINDS", "PLANNED", "FrameKind", "Phase", "kind_named", "mask"]

#: Flags of a header (docs/wire-format.md): further frames of the message follow; the
#: lane of a frame that names an endpoint; a handler waits for the answer; an extension
#: block stands before the payload.
MORE: Final = 1
LANE: Final = 7 << 1
NESTED: Final = 16
EXTENDED: Final = 32

#: Before the payload of CALL, CONFIRM, REPLY and ERROR: the number of the call.
CALL_BYTES: Final = 4
#: A code and the length of a text, before two texts.
REASON_BYTES: Final = 4
PING_BYTES: Final = 8
CREDIT_BYTES: Final = 4
#: The length of an extension block, before the block.
BLOCK_BYTES: Final = 2
#: Of DROPPED: how many messages; of LEAVING: for how many milliseconds.
COUNT_BYTES: Final = 4


class Phase(Enum):
    """The part of a link's life in which a side takes a kind."""

    HELLO = "the peer's HELLO is awaited"
    DECIDING = "the peer is being judged"
    ACCEPT = "the peer's ACCEPT is awaited"
    TRAFFIC = "the link is up, or ends in order"


_TRAFFIC: Final = frozenset({Phase.TRAFFIC})


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKind:
    """One kind of frame.

    Attributes:
        name: as in docs/wire-format.md.
        number: the first byte of its header.
        meaning: what the frame says, in one line.
        lane: the lane that it travels in, in the words of docs/wire-format.md.
        least: the fewest bytes that its body may have. For a kind with a payload: the
            bytes before the payload, without the total of a message of several frames.
        most: the most bytes that its body may have. None: it carries a payload, and the
            receiver's `max_frame` and `max_message` are the bound.
        flags: the flags that its header may have.
        phases: when a side takes it from its peer.
        until_moved: a peer that has sent MOVED must not send it.
        after_goodbye: a side that has sent GOODBYE may still send it.
        feature: the feature of HELLO that both sides must have announced, or "".
        taken_by: "dialer" or "acceptor" if only that side takes it, else "".
    """

    name: str
    number: int
    meaning: str
    lane: str = "control"
    least: int = 0
    most: int | None = 0
    flags: int = 0
    phases: frozenset[Phase] = _TRAFFIC
    until_moved: bool = False
    after_goodbye: bool = False
    feature: str = ""
    taken_by: str = ""


KINDS: Final = (
    FrameKind(
        name="HELLO",
        number=1,
        meaning="who the sender is, and what it takes",
        least=1,
        most=MAX_HELLO_BYTES,
        phases=frozenset({Phase.HELLO}),
    ),
    FrameKind(
        name="ACCEPT",
        number=2,
        meaning="the dialer accepts the acceptor: the link is up",
        phases=frozenset({Phase.ACCEPT}),
    ),
    FrameKind(
        name="ENDPOINT",
        number=3,
        meaning="gives the name of an endpoint a number",
        lane="a lane of messages",
        least=1,
        most=MAX_ENDPOINT_NAME_BYTES,
        flags=LANE,
        until_moved=True,
    ),
    FrameKind(
        name="MESSAGE",
        number=4,
        meaning="a message without a reply, or its first part",
        lane="a lane of messages",
        most=None,
        flags=MORE | LANE | EXTENDED,
        until_moved=True,
    ),
    FrameKind(
        name="CALL",
        number=5,
        meaning="a message with a reply, or its first part",
        lane="a lane of messages",
        least=CALL_BYTES,
        most=None,
        flags=MORE | LANE | NESTED | EXTENDED,
        until_moved=True,
    ),
    FrameKind(
        name="REPLY",
        number=6,
        meaning="the reply to a call, or its first part",
        lane="reply; with `MORE`, bulk reply",
        least=CALL_BYTES,
        most=None,
        flags=MORE | EXTENDED,
    ),
    FrameKind(
        name="ERROR",
        number=7,
        meaning="why a call has no reply",
        lane="reply",
        least=CALL_BYTES + REASON_BYTES,
        most=CALL_BYTES
        + BLOCK_BYTES
        + MAX_EXTENSION_BYTES
        + REASON_BYTES
        + 2 * MAX_REASON_BYTES,
        flags=EXTENDED,
    ),
    FrameKind(
        name="CONTINUE",
        number=8,
        meaning="a further part of a message or reply",
        lane="its message's",
        least=1,
        most=None,
        flags=MORE,
    ),
    FrameKind(
        name="CREDIT",
        number=9,
        meaning="how many more bytes the peer may send in a lane",
        least=CREDIT_BYTES,
        most=CREDIT_BYTES,
        after_goodbye=True,
    ),
    FrameKind(
        name="CANCEL",
        number=10,
        meaning="nobody waits for the reply to a call any more",
        least=CALL_BYTES,
        most=CALL_BYTES,
        after_goodbye=True,
    ),
    FrameKind(
        name="PING",
        number=11,
        meaning="asks for a PONG",
        least=PING_BYTES,
        most=PING_BYTES,
    ),
    FrameKind(
        name="PONG",
        number=12,
        meaning="the answer to a PING",
        least=PING_BYTES,
        most=PING_BYTES,
    ),
    FrameKind(
        name="GOODBYE",
        number=13,
        meaning="the sender ends or refuses the link, and why",
        least=REASON_BYTES,
        most=REASON_BYTES + 2 * MAX_REASON_BYTES,
        phases=frozenset(Phase),
    ),
    FrameKind(
        name="MOVED",
        number=14,
        meaning="further messages and calls travel on the link that replaces this one",
        lane="data",
        until_moved=True,
        feature="HANDOVER",
    ),
    FrameKind(
        name="RECONNECT",
        number=15,
        meaning="asks the dialer for a link that replaces this one",
        feature="HANDOVER",
        taken_by="dialer",
    ),
    FrameKind(
        name="STAY",
        number=16,
        meaning="the dialer has no link that could replace this one, and why",
        least=REASON_BYTES,
        most=REASON_BYTES + 2 * MAX_REASON_BYTES,
        feature="HANDOVER",
        taken_by="acceptor",
    ),
    FrameKind(
        name="CONFIRM",
        number=17,
        meaning="a message whose sender is told when its handler was given it",
        lane="a lane of messages",
        least=CALL_BYTES,
        most=None,
        flags=MORE | LANE | NESTED | EXTENDED,
        until_moved=True,
    ),
    FrameKind(
        name="PAUSE",
        number=18,
        meaning="the endpoint with this name has enough: hold back what is for it",
        least=1,
        most=MAX_ENDPOINT_NAME_BYTES,
        after_goodbye=True,
        feature="EXTENSIONS",
    ),
    FrameKind(
        name="RESUME",
        number=19,
        meaning="the endpoint with this name takes more",
        least=1,
        most=MAX_ENDPOINT_NAME_BYTES,
        after_goodbye=True,
        feature="EXTENSIONS",
    ),
    FrameKind(
        name="DROPPED",
        number=20,
        meaning="one-way messages were dropped, because no endpoint has this name",
        least=COUNT_BYTES + 1,
        most=COUNT_BYTES + MAX_ENDPOINT_NAME_BYTES,
        feature="EXTENSIONS",
    ),
    FrameKind(
        name="LEAVING",
        number=21,
        meaning="the sender will stop: turn away, what is under way goes on",
        least=COUNT_BYTES,
        most=COUNT_BYTES,
        feature="EXTENSIONS",
    ),
)

#: Streams: designed, and not taken by this version (docs/wire-format.md). A peer that
#: sends one of these breaks the protocol, for this version does not announce STREAMS.
PLANNED: Final = (
    FrameKind(
        name="OPEN",
        number=22,
        meaning="opens a stream to an endpoint",
        lane="a lane of messages",
        least=CALL_BYTES + CREDIT_BYTES,
        most=CALL_BYTES + CREDIT_BYTES + BLOCK_BYTES + MAX_EXTENSION_BYTES,
        flags=LANE | NESTED | EXTENDED,
        until_moved=True,
        feature="STREAMS",
    ),
    FrameKind(
        name="ITEM",
        number=23,
        meaning="a message of a stream, or a part of one",
        lane="stream",
        least=CALL_BYTES,
        most=None,
        flags=MORE | EXTENDED,
        feature="STREAMS",
    ),
    FrameKind(
        name="STREAM_CREDIT",
        number=24,
        meaning="how many more bytes the peer may send in a stream",
        least=CALL_BYTES + CREDIT_BYTES,
        most=CALL_BYTES + CREDIT_BYTES,
        after_goodbye=True,
        feature="STREAMS",
    ),
    FrameKind(
        name="END",
        number=25,
        meaning="the sender sends nothing more in a stream",
        lane="stream",
        least=CALL_BYTES,
        most=CALL_BYTES + BLOCK_BYTES + MAX_EXTENSION_BYTES,
        flags=EXTENDED,
        feature="STREAMS",
    ),
    FrameKind(
        name="RESET",
        number=26,
        meaning="a stream is over in both directions, and why",
        lane="reply",
        least=CALL_BYTES + REASON_BYTES,
        most=CALL_BYTES
        + BLOCK_BYTES
        + MAX_EXTENSION_BYTES
        + REASON_BYTES
        + 2 * MAX_REASON_BYTES,
        flags=EXTENDED,
        feature="STREAMS",
    ),
)

_BY_NAME: Final = {kind.name: kind for kind in KINDS}


def kind_named(name: str) -> FrameKind:
    """Return the kind with this name.

    Raises:
        KeyError: there is no such kind.
    """
    return _BY_NAME[name]


def mask(includes: Callable[[FrameKind], bool]) -> int:
    """Return the kinds that `includes` returns True for, as a bit mask.

    Bit n is set if the kind with number n is included.
    """
    return sum(1 << kind.number for kind in KINDS if includes(kind))
