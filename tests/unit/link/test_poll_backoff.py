"""When what was in vain is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastnode.limits import (
    BUSY_POLL_LEAST_REST_SECONDS as LEAST,
)
from fastnode.limits import (
    BUSY_POLL_MOST_REST_SECONDS as MOST,
)
from fastnode.link.busy_poll import PollBackoff


def test_ready_until_something_is_lost() -> None:
    patience = PollBackoff()
    assert patience.ready(0.0)
    patience.won()
    assert patience.ready(0.0)
    patience.lost(10.0)
    assert not patience.ready(10.0)
    assert not patience.ready(10.0 + LEAST * 0.99)
    assert patience.ready(10.0 + LEAST)


def test_each_loss_doubles_the_rest_and_each_success_halves_it() -> None:
    patience = PollBackoff()
    rests = []
    for _ in range(20):
        rests.append(patience.rest)
        patience.lost(0.0)
    assert rests[:3] == [LEAST, 2 * LEAST, 4 * LEAST]
    assert rests[-1] == patience.rest == MOST
    patience.won()
    assert patience.rest == MOST / 2
    for _ in range(20):
        patience.won()
    assert patience.rest == LEAST


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=200))
def test_no_rest_is_longer_than_the_longest(steps: list[tuple[bool, float]]) -> None:
    patience = PollBackoff()
    now = 0.0
    for won, seconds in steps:
        now += seconds
        if not patience.ready(now):
            continue
        rest = patience.rest
        assert LEAST <= rest <= MOST
        if won:
            patience.won()
            assert patience.ready(now)
        else:
            patience.lost(now)
            assert not patience.ready(now + rest * 0.99)
            assert patience.ready(now + MOST)


@given(st.integers(0, 1000))
def test_always_in_vain_is_seldom_tried(seconds: int) -> None:
    patience = PollBackoff()
    now, tries = 0.0, 0
    while now < seconds:
        if patience.ready(now):
            tries += 1
            patience.lost(now)
        now += 0.25
    # The doublings, and then once in the longest rest.
    assert tries <= 20 + seconds / MOST
