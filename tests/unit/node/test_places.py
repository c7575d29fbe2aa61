"""Places for links: never more stay than there are."""

from __future__ import annotations

from typing import Any

from fastnode.node.places import Places


def links(count: int) -> list[Any]:
    return [object() for _ in range(count)]


def test_there_are_so_many_and_no_more() -> None:
    places, (a, b, c) = Places(2), links(3)
    assert places.take(a, [])
    assert places.take(b, [])
    assert not places.take(c, [])
    places.leave(c)
    places.leave(a)
    places.leave(a)
    assert len(places) == 1
    assert places.take(c, [])
    assert not places.take(a, [])


def test_who_makes_way_shares_its_place() -> None:
    places, (old, new, newer, other) = Places(1), links(4)
    assert places.take(old, [])
    assert places.take(new, [other, old])
    assert places.take(newer, [new])
    assert len(places) == 1
    # Whoever of them goes first, it is taken until the last one has gone.
    for each in (old, newer):
        places.leave(each)
        assert not places.take(other, [])
    places.leave(new)
    assert places.take(other, [new])


def test_one_that_takes_the_place_of_two_leaves_the_other_free() -> None:
    places, (one, two, new, other) = Places(2), links(4)
    assert places.take(one, [])
    assert places.take(two, [])
    assert places.take(new, [one, two])
    assert not places.take(other, [])
    places.leave(one)
    places.leave(two)
    assert places.take(other, [])
