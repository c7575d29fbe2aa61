"""What limits on strangers count as one address."""

from __future__ import annotations

import pytest

from fastnode.node.pending import group_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Of a listener that takes both protocols.
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "::ffff:c000:201"),
        ("192.0.2.1", "::FFFF:192.0.2.1"),
        # Behind a translator.
        ("192.0.2.1", "64:ff9b::192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_addresses_that_count_as_one(one: str, other: str) -> None:
    assert group_of((one, 1)) == group_of((other, 2, 0, 0))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2"),
        # Deprecated (RFC 4291, 2.5.5.1), and the loopback address among them.
        ("192.0.2.1", "::192.0.2.1"),
        ("::1", "::ffff:0.0.0.1"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        # The same four bytes at the end, in another network.
        ("::ffff:192.0.2.1", "2001:db8::ffff:c000:201"),
        ("::ffff:192.0.2.1", "::1:ffff:192.0.2.1"),
    ],
)
def test_addresses_that_count_for_themselves(one: str, other: str) -> None:
    assert group_of((one, 1, 0, 0)) != group_of((other, 1, 0, 0))
