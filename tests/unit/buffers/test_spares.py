"""Large payloads that are used again, or go back in pieces."""

from __future__ import annotations

import ctypes
import gc

import pytest

from fastnode.buffers.spares import Spares
from fastnode.limits import MAX_SPARES, SPARE_PIECE_BYTES

LEAST = 1 << 20


def make() -> tuple[Spares, list[int]]:
    """With how many were kept when it told so."""
    spares = Spares(LEAST)
    told: list[int] = []
    spares.on_kept = lambda: told.append(len(spares))
    return spares, told


def filled(size: int, with_what: bytes = b"a") -> bytes:
    return with_what * size


@pytest.mark.parametrize("size", [LEAST, LEAST + 1, 3 * LEAST, 9 * LEAST])
def test_a_payload_that_nobody_has_is_used_for_the_next(size: int) -> None:
    spares, told = make()
    payloads = [filled(3 * LEAST)]
    hash(payloads[0])
    spares.release(payloads)
    assert (told, spares.held) == ([1], 3 * LEAST)
    payload = spares.take(size)
    assert (len(payload), len(spares)) == (size, 0)
    # What came in it before is there, and its hash is forgotten.
    assert payload[: LEAST - 1] == filled(LEAST - 1)
    assert hash(payload) == hash(bytes(bytearray(payload)))
    assert hash(payload) != hash(filled(3 * LEAST, b"b"))


def test_the_hash_of_one_of_the_same_size_is_forgotten() -> None:
    spares, _ = make()
    payloads = [bytes(bytearray(LEAST))]
    before = hash(payloads[0])
    spares.release(payloads)
    payload = spares.take(LEAST)
    # As TLS writes into it.
    ctypes.memset(id(payload) + bytes.__basicsize__ - 1, 1, LEAST)
    assert payload == b"\1" * LEAST
    assert hash(payload) == hash(bytes(bytearray(payload))) != before


def test_a_payload_that_somebody_has_is_left_alone() -> None:
    spares, told = make()
    kept = filled(LEAST)
    viewed = [filled(LEAST)]
    view = memoryview(viewed[0])
    spares.release([kept])
    spares.release(viewed)
    assert (told, len(spares)) == ([], 0)
    assert spares.take(LEAST) is not kept
    assert bytes(view) == kept == filled(LEAST)


def test_a_payload_that_somebody_finds_later_is_left_alone() -> None:
    spares, _ = make()
    spares.release([filled(9 << 20)])
    found = [each for each in gc.get_referents(*gc.get_referents(spares))
             if isinstance(each, bytes)]  # fmt: skip
    assert len(found) == 1
    spares.age()
    spares.age()
    spares.give_back()
    assert len(spares) == 0
    spares.release([filled(LEAST)])
    other = [each for each in gc.get_referents(*gc.get_referents(spares))
             if isinstance(each, bytes)]  # fmt: skip
    assert spares.take(LEAST) is not other[0]
    assert (found, other) == ([filled(9 << 20)], [filled(LEAST)])


def test_small_ones_and_all_ones_of_a_pool_without_a_node_are_left_alone() -> None:
    spares, told = make()
    spares.release([filled(LEAST - 1)])
    spares.on_kept = None
    spares.release([filled(LEAST)])
    assert (told, len(spares)) == ([], 0)


def test_what_is_small_does_not_take_a_spare() -> None:
    spares, _ = make()
    spares.release([filled(LEAST)])
    spares.take(LEAST - 1)
    assert len(spares) == 1


def test_what_is_not_used_goes_in_pieces() -> None:
    spares, _ = make()
    size = 2 * SPARE_PIECE_BYTES + 1
    spares.release([filled(size)])
    assert not spares.due
    spares.age()
    assert not spares.due
    spares.age()
    held: list[int] = []
    while spares.due:
        held.append(spares.held)
        spares.give_back()
    assert held == [size, size - SPARE_PIECE_BYTES, size - 2 * SPARE_PIECE_BYTES]
    assert len(spares) == 0
    spares.give_back()


def test_use_puts_its_end_off() -> None:
    spares, _ = make()
    spares.release([filled(LEAST)])
    for _ in range(5):
        spares.age()
        payloads = [spares.take(LEAST)]
        spares.release(payloads)
        assert not spares.due
    spares.age()
    spares.age()
    assert spares.due


def test_all_but_the_newest_are_due() -> None:
    spares, told = make()
    spares.release([filled(LEAST, b"a")])
    spares.release([filled(2 * LEAST, b"b")])
    assert told == [1, 2]
    assert spares.due
    spares.give_back()
    assert (spares.held, spares.due) == (2 * LEAST, False)
    for number in range(5):
        spares.release([filled(LEAST + number)])
    assert len(spares) == MAX_SPARES


def test_nothing_is_kept_after_the_end() -> None:
    spares, told = make()
    spares.release([filled(LEAST)])
    spares.clear()
    spares.release([filled(LEAST)])
    assert (told, len(spares), spares.due) == ([1], 0, False)
