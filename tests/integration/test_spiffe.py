"""Two nodes whose certificates carry SPIFFE IDs."""

from __future__ import annotations

import pytest

from fastnode import Certificate, NotAuthorized, Side, SpiffeRule
from helpers.nodes import A, B, pair
from helpers.pki import manager, odd_certificate


def svid(name: str, workload: str, domain: str = "prod.example") -> Certificate:
    return odd_certificate(name, dns=[f"spiffe://{domain}/ns/shop/sa/{workload}"])


async def test_a_rule_on_both_sides() -> None:
    rule = SpiffeRule("prod.example", r"/ns/shop/sa/{name}")
    good = manager(B, shows=svid(B, "beta"))
    for shown, admitted in (
        (svid(A, "alpha"), True),
        (svid(A, "beta"), False),
        (svid(A, "alpha", "test.example"), False),
        (odd_certificate(A), False),
    ):
        async with pair(
            {"manager": manager(A, shows=shown), "authorize": rule},
            {"manager": good, "authorize": rule},
        ) as (a, _b):
            if admitted:
                assert (await a.connect(B)).peer.verified
                continue
            with pytest.raises(NotAuthorized) as caught:
                await a.connect(B)
            assert caught.value.side is Side.REMOTE
