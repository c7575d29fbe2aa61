"""The quota of an acceptor: there are never more links than it allows."""

from __future__ import annotations

from typing import Any

from fastnode.node.quota import LinkQuota


def links(count: int) -> list[Any]:
    return [object() for _ in range(count)]


def test_no_more_links_than_the_quota() -> None:
    quota, (a, b, c) = LinkQuota(2, 2), links(3)
    assert quota.acquire(a, []) is None
    assert quota.acquire(b, []) is None
    assert quota.acquire(c, []) is not None
    quota.release(c)
    quota.release(a)
    quota.release(a)
    assert len(quota) == 1
    assert quota.acquire(c, []) is None
    assert quota.acquire(a, []) is not None


def test_a_link_and_its_successor_share_a_unit() -> None:
    quota, (old, new, newer, other) = LinkQuota(1, 1), links(4)
    assert quota.acquire(old, []) is None
    assert quota.acquire(new, [other, old]) is None
    assert quota.acquire(newer, [new]) is None
    assert len(quota) == 1
    # The unit is free when the last of the three has ended, in whatever order.
    for each in (old, newer):
        quota.release(each)
        assert quota.acquire(other, []) is not None
    quota.release(new)
    assert quota.acquire(other, [new]) is None


def test_a_link_that_replaces_two_shares_the_unit_of_one() -> None:
    quota, (one, two, new, other) = LinkQuota(2, 2), links(4)
    assert quota.acquire(one, []) is None
    assert quota.acquire(two, []) is None
    assert quota.acquire(new, [one, two]) is None
    assert quota.acquire(other, []) is not None
    quota.release(one)
    quota.release(two)
    assert quota.acquire(other, []) is None


def test_no_identity_has_more_than_its_part() -> None:
    quota, (a, b, c, d, e) = LinkQuota(4, 2), links(5)
    assert quota.acquire(a, [], "x") is None
    assert quota.acquire(b, [], "x") is None
    full = quota.acquire(c, [], "x")
    assert full is not None
    assert (full.option, full.links) == ("max_links_per_peer", 2)
    # A link that replaces one of them needs no room. Other identities have room.
    assert quota.acquire(c, [a], "x") is None
    assert quota.acquire(d, [], "y") is None
    assert quota.acquire(e, []) is None
    full = quota.acquire(object(), [], "x")  # type: ignore[arg-type]
    assert full is not None
    assert full.option == "max_links"
    quota.release(a)
    quota.release(c)
    assert quota.acquire(a, [], "x") is None
    for each in (a, b, d, e):
        quota.release(each)
    assert len(quota) == 0
    assert not quota._identities
