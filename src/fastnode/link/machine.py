"""The states of a link, as a table. It uses no socket, no loop and no clock.

Theory of operation. The dialer speaks first::

    dialer                                  acceptor
    TLS ------------- handshake ------------- TLS
    HELLO  -- HELLO ------------------------> HELLO
                                              DECIDING   name, certificate, authorize
           <------------------------ HELLO -- ACCEPTED   "you are accepted"
    DECIDING   the same checks
    UP     -- ACCEPT -----------------------> UP

So each side is up only after the other side has checked it. Either side may refuse: it
sends GOODBYE with the reason instead of its HELLO or ACCEPT. In an orderly end each
side sends GOODBYE after its last frame. The link is CLOSING until both have passed. A
link that a newer link replaces is RETIRING from its last message to this end
(fastnode.link.succession). TRANSITIONS has everything that affects a transition. FRAMES
has the kinds that a peer may send in each state. It is made from the table of kinds
(fastnode.wire.kinds).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastnode.errors import ProtocolError, Side
from fastnode.wire.kinds import KINDS, Phase

__all__ = ["FRAMES", "TRANSITIONS", "Event", "State", "next_state"]


class State(IntEnum):
    """The state of a link. States below UP belong to its handshake."""

    TLS = 0  #: the TLS handshake is under way
    HELLO = 1  #: we wait for the peer's HELLO
    DECIDING = 2  #: the owner checks the peer and its HELLO
    ACCEPTED = 3  #: acceptor: the dialer was accepted, and we wait for its ACCEPT
    UP = 4
    RETIRING = 5  #: a newer link replaces this one; handlers and calls finish here
    CLOSING = 6  #: orderly end: queued frames leave, both sides send GOODBYE
    CLOSED = 7


class Event(IntEnum):
    """An event that changes the state of a link."""

    TLS_DONE = 0
    HELLO_RECEIVED = 1
    WELCOMED = 2  #: acceptor: we sent our HELLO
    ACCEPT_SENT = 3  #: dialer: we sent ACCEPT
    ACCEPT_RECEIVED = 4
    MOVE = 5  #: from now on we send on a newer link
    CLOSE = 6  #: we want an orderly end, or the peer sent GOODBYE
    END = 7  #: the link is finished, refused or has failed


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

#: The states in which a side takes frames, and the phase of each.
_PHASES: Final = {
    State.HELLO: Phase.HELLO,
    State.DECIDING: Phase.DECIDING,
    State.ACCEPTED: Phase.ACCEPT,
    State.UP: Phase.TRAFFIC,
    State.RETIRING: Phase.TRAFFIC,
    State.CLOSING: Phase.TRAFFIC,
}

#: The kinds that a peer may send, by our state.
FRAMES: Final[dict[State, frozenset[int]]] = {
    state: frozenset(kind.number for kind in KINDS if _PHASES.get(state) in kind.phases)
    for state in State
}

_MASKS: Final = {
    state: sum(1 << number for number in numbers) for state, numbers in FRAMES.items()
}


def next_state(state: State, event: Event) -> State:
    """Return the state that follows after `event`.

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
    """Return `FRAMES` of a state as a bit mask: bit k is set if kind k is allowed."""
    return _MASKS[state]
