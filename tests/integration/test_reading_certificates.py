"""Certificates of verified peers are read once, those of others each time."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fastnode.names import NodeName
from fastnode.tls.identity import covers_again
from helpers.nodes import A, B, introduce, running, until


@pytest.mark.parametrize("insecure", [False, True], ids=["verified", "unverified"])
async def test_a_verified_certificate_is_read_once(insecure: bool) -> None:
    async with (
        running(A, listens=False, insecure_skip_verify=insecure) as a,
        running(B) as b,
    ):
        introduce(a, b)
        link = await a.connect(B)
        first = link.peer.certificate
        await link.close()
        await until(lambda: not a.links and not b.links)
        link = await a.connect(B)
        second = link.peer.certificate
    assert first is not None
    assert first == second
    # A side that does not verify does not remember.
    assert (first is second) is not insecure


async def test_what_covers_one_name_is_asked_again_for_another() -> None:
    async with running(A, listens=False) as a, running(B) as b:
        introduce(a, b)
        link = await a.connect(B)
        certificate = link.peer.certificate
    assert certificate is not None
    der = certificate.public_bytes(Encoding.DER)
    assert covers_again(der, NodeName.parse(B), ())
    assert not covers_again(der, NodeName.parse("beta@elsewhere.example"), ())
    assert covers_again(der, NodeName.parse(B), ())
