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
transition is in TRANSITIONS. FRAMES has the kinds that a peer may send in each state,
made of the table of kinds (fastnode.wire.kinds).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from fastnode.errors import ProtocolError, Side
from fastnode.wire.kinds import KINDS, Phase

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

#: The states in which a side takes frames at all, and what it waits for there.
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
