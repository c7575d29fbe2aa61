"""The states of a link, as a table. Pure: no socket, no loop, no clock.

Theory of operation. The dialer speaks first::

    dialer                                  acceptor
    TLS ------------- handshake ------------- TLS
    HELLO  -- HELLO ------------------------> HELLO
                                              DECIDING   name, certificate, authorize
           <------------------------ HELLO -- ACCEPTED   "you are accepted"
    DECIDING   the same checks
    UP     -- ACCEPT -----------------------> UP

so that a dialer is up only after the acceptor has judged it, and the other way round.
Either side may refuse instead of its HELLO or ACCEPT with a GOODBYE that says why.
An orderly end is a GOODBYE in each direction, each after the last frame of its side:
CLOSING until both have passed. A link that another one succeeds is RETIRING from its
last message to that end (fastnode.link.succession). Everything that affects a
transition is in TRANSITIONS, everything that a peer may send in FRAMES.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastnode.errors import ProtocolError, Side

__all__ = ["FRAMES", "TRANSITIONS", "Event", "State", "next_state"]


class State(IntEnum):
    """Where a link stands; states below UP belong to its handshake."""

    TLS = 0  #: the TLS handshake is under way
    HELLO = 1  #: the peer's HELLO is awaited
    DECIDING = 2  #: the peer's HELLO is being judged
    ACCEPTED = 3  #: acceptor: the dialer was accepted, its ACCEPT is awaited
    UP = 4
    RETIRING = 5  #: a newer link takes its place; what was begun here ends here
    CLOSING = 6  #: orderly end: what is queued leaves, goodbyes are exchanged
    CLOSED = 7


class Event(IntEnum):
    """What makes a link change its state."""

    TLS_DONE = 0
    HELLO_RECEIVED = 1
    WELCOMED = 2  #: acceptor: we sent our HELLO
    ACCEPT_SENT = 3  #: dialer: we sent ACCEPT
    ACCEPT_RECEIVED = 4
    MOVE = 5  #: what we send from now on travels on a newer link
    CLOSE = 6  #: we want an orderly end, or the peer said goodbye
    END = 7  #: finished, refused or failed


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.TLS, Event.TLS_DONE): State.HELLO,
    (State.HELLO, Event.HELLO_RECEIVED): State.DECIDING,
    (State.DECIDING, Event.WELCOMED): State.ACCEPTED,
    (State.DECIDING, Event.ACCEPT_SENT): State.UP,
    (State.ACCEPTED, Event.ACCEPT_RECEIVED): State.UP,
    (State.UP, Event.MOVE): State.RETIRING,
    (State.UP, Event.CLOSE): State.CLOSING,
    (State.RETIRING, Event.CLOSE): State.CLOSING,
    (State.CLOSING, Event.CLOSE): State.CLOSING,
    **{(state, Event.END): State.CLOSED for state in State},
}

# Kinds of frames, as in docs/wire-format.md (and fastnode/wire/frame.pxd for Cython).
_HELLO, _ACCEPT, _GOODBYE = 1, 2, 13
_TRAFFIC = frozenset({3, 4, 5, 6, 7, 8, 9, 10, 11, 12, _GOODBYE, 14, 15, 16, 17})

#: The kinds that a peer may send, by our state.
FRAMES: Final[dict[State, frozenset[int]]] = {
    State.TLS: frozenset(),
    State.HELLO: frozenset({_HELLO, _GOODBYE}),
    State.DECIDING: frozenset({_GOODBYE}),
    State.ACCEPTED: frozenset({_ACCEPT, _GOODBYE}),
    State.UP: _TRAFFIC,
    State.RETIRING: _TRAFFIC,
    State.CLOSING: _TRAFFIC,
    State.CLOSED: frozenset(),
}


_MASKS: Final = {
    state: sum(1 << kind for kind in kinds) for state, kinds in FRAMES.items()
}


def next_state(state: State, event: Event) -> State:
    """The state after `event`.

    Raises:
        ProtocolError: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ProtocolError(
            f"{event.name} cannot happen while the link is {state.name}",
            side=Side.LOCAL,
        ) from None


def frame_mask(state: State) -> int:
    """`FRAMES` of a state as a bit mask: bit k is set if kind k is allowed."""
    return _MASKS[state]
