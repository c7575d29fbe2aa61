"""The quota of an acceptor: there are never more links than it allows."""

from __future__ import annotations

from typing import Any

from fastnode.node.quota import LinkQuota


def links(count: int) -> list[Any]:
    return [object() for _ in range(count)]


def test_no_more_links_than_the_quota() -> None:
    quota, (a, b, c) = LinkQuota(2), links(3)
    assert quota.acquire(a, [])
    assert quota.acquire(b, [])
    assert not quota.acquire(c, [])
    quota.release(c)
    quota.release(a)
    quota.release(a)
    assert len(quota) == 1
    assert quota.acquire(c, [])
    assert not quota.acquire(a, [])


def test_a_link_and_its_successor_share_a_unit() -> None:
    quota, (old, new, newer, other) = LinkQuota(1), links(4)
    assert quota.acquire(old, [])
    assert quota.acquire(new, [other, old])
    assert quota.acquire(newer, [new])
    assert len(quota) == 1
    # The unit is free when the last of the three has ended, in whatever order.
    for each in (old, newer):
        quota.release(each)
        assert not quota.acquire(other, [])
    quota.release(new)
    assert quota.acquire(other, [new])


def test_a_link_that_replaces_two_shares_the_unit_of_one() -> None:
    quota, (one, two, new, other) = LinkQuota(2), links(4)
    assert quota.acquire(one, [])
    assert quota.acquire(two, [])
    assert quota.acquire(new, [one, two])
    assert not quota.acquire(other, [])
    quota.release(one)
    quota.release(two)
    assert quota.acquire(other, [])
