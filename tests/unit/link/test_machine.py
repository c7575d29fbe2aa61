"""The table of link states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ProtocolError
from fastnode.link.machine import (
    FRAMES,
    TRANSITIONS,
    Event,
    State,
    frame_mask,
    next_state,
)
from fastnode.wire.kinds import KINDS

HANDSHAKE = (State.TLS, State.HELLO, State.DECIDING, State.ACCEPTED)


def walk(*events: Event) -> State:
    state = State.TLS
    for event in events:
        state = next_state(state, event)
    return state


def test_the_dialer_s_way_up() -> None:
    assert walk(Event.TLS_DONE, Event.HELLO_RECEIVED, Event.ACCEPT_SENT) is State.UP


def test_the_acceptor_s_way_up() -> None:
    events = (Event.TLS_DONE, Event.HELLO_RECEIVED, Event.WELCOMED)
    assert walk(*events) is State.ACCEPTED
    assert walk(*events, Event.ACCEPT_RECEIVED) is State.UP


def test_the_way_of_a_link_that_is_replaced() -> None:
    up = (Event.TLS_DONE, Event.HELLO_RECEIVED, Event.ACCEPT_SENT)
    assert walk(*up, Event.MOVE) is State.RETIRING
    assert walk(*up, Event.MOVE, Event.CLOSE) is State.CLOSING
    # Nobody moves twice, nor after a goodbye, nor before the link is up.
    for before in ((), up[:2], (*up, Event.MOVE), (*up, Event.CLOSE)):
        with pytest.raises(ProtocolError, match="MOVE"):
            walk(*before, Event.MOVE)


@pytest.mark.parametrize("state", State)
def test_every_state_can_end(state: State) -> None:
    assert next_state(state, Event.END) is State.CLOSED


@given(st.lists(st.sampled_from(Event), max_size=20))
def test_guarantee_2_no_way_up_without_a_judgement(events: list[Event]) -> None:
    state = State.TLS
    seen = []
    for event in events:
        if (state, event) not in TRANSITIONS:
            with pytest.raises(ProtocolError, match=event.name):
                next_state(state, event)
            continue
        before, state = state, next_state(state, event)
        seen.append(event)
        if before is State.CLOSED:
            assert state is State.CLOSED
        if state is State.UP:
            # TLS, then a HELLO, then our verdict; the acceptor also hears theirs.
            assert seen[:2] == [Event.TLS_DONE, Event.HELLO_RECEIVED]
            assert seen[2:] in (
                [Event.ACCEPT_SENT],
                [Event.WELCOMED, Event.ACCEPT_RECEIVED],
            )


def test_frames_by_state() -> None:
    assert FRAMES[State.TLS] == FRAMES[State.CLOSED] == frozenset()
    for state in HANDSHAKE:
        # Nothing but the handshake's own frames and a refusal.
        assert FRAMES[state] <= {1, 2, 13}
    for state in (State.UP, State.RETIRING, State.CLOSING):
        assert FRAMES[state] == {kind.number for kind in KINDS} - {1, 2}


@pytest.mark.parametrize("state", State)
def test_masks(state: State) -> None:
    mask = frame_mask(state)
    assert {kind for kind in range(32) if mask >> kind & 1} == FRAMES[state]
