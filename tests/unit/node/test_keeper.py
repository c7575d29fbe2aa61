"""Pauses between dials: pure, with random numbers of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastnode.backoff import Backoff
from fastnode.errors import (
    CloseReason,
    ConfigError,
    FastnodeError,
    HandshakeError,
    HandshakeTimeout,
    LinkLost,
    NoRoute,
    NotAuthorized,
    ProtocolError,
    refusal_from_wire,
)
from fastnode.limits import REDIAL_FIRST_SECONDS, REDIAL_MOST_SECONDS
from fastnode.node.keeper import needs_somebody


def fixed(number: float) -> Callable[[], float]:
    return lambda: number


def test_the_ceiling_doubles_up_to_the_most() -> None:
    backoff = Backoff(first=1, most=5, random=fixed(1.0))
    assert [backoff.pause() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_full_jitter() -> None:
    numbers = iter([0.0, 0.5, 1.0, 0.25])
    backoff = Backoff(first=1, most=100, random=lambda: next(numbers))
    assert [backoff.pause() for _ in range(4)] == [0.0, 1.0, 4.0, 2.0]


def test_a_long_link_starts_it_over_and_a_short_one_does_not() -> None:
    backoff = Backoff(first=1, most=8, stable=10, random=fixed(1.0))
    for _ in range(3):
        backoff.pause()
    backoff.was_up(9.9)
    assert backoff.ceiling == 8
    backoff.was_up(10)
    assert backoff.pause() == 1


def test_what_needs_somebody_waits_for_the_most_at_once() -> None:
    backoff = Backoff(first=1, most=30, random=fixed(1.0))
    backoff.give_time()
    assert backoff.pause() == 30
    assert backoff.pause() == 30


def test_defaults() -> None:
    backoff = Backoff()
    assert backoff.ceiling == REDIAL_FIRST_SECONDS
    for _ in range(30):
        assert 0 <= backoff.pause() <= REDIAL_MOST_SECONDS
    assert backoff.ceiling == REDIAL_MOST_SECONDS


def cut_short() -> HandshakeError:
    error = HandshakeError("the connection ended")
    error.told = False
    return error


@pytest.mark.parametrize(
    ("error", "needs"),
    [
        (NoRoute(""), False),
        (LinkLost(""), False),
        (HandshakeTimeout(""), False),
        (cut_short(), False),
        (HandshakeError(""), True),
        (NotAuthorized(""), True),
        (ProtocolError(""), True),
        (ConfigError(""), True),
        (refusal_from_wire(CloseReason.SHUTDOWN, ""), False),
        (refusal_from_wire(CloseReason.TOO_MANY_LINKS, ""), False),
        (refusal_from_wire(CloseReason.HANDSHAKE_TIMEOUT, ""), False),
        (refusal_from_wire(CloseReason.UNKNOWN_AUTHORITY, ""), True),
        (refusal_from_wire(CloseReason.UNSUPPORTED_VERSION, ""), True),
        (refusal_from_wire(99, ""), True),
    ],
)
def test_who_needs_somebody(error: FastnodeError, needs: bool) -> None:
    assert needs_somebody(error) is needs
