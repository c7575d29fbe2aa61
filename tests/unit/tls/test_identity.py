"""Which node names a certificate covers (guarantee 4)."""

from __future__ import annotations

import pytest

from fastnode.names import NodeName
from fastnode.tls.identity import covers, describe
from helpers.pki import authority


@pytest.mark.parametrize(
    ("sans", "name", "expected"),
    [
        (["fastnode://a@h.example"], "a@h.example", True),
        (["fastnode://a@h.example"], "b@h.example", False),
        (["fastnode://A@h.example"], "a@h.example", False),
        (["https://a@h.example"], "a@h.example", False),
        (["h.example"], "a@h.example", True),
        (["H.Example"], "a@h.example", True),
        (["h.example"], "a@H.EXAMPLE", True),
        (["h.example"], "a@x.h.example", False),
        (["*.example.com"], "a@h.example.com", True),
        (["*.example.com"], "a@x.h.example.com", False),
        (["*.example.com"], "a@example.com", False),
        (["*.com"], "a@example.com", False),
        (["h*.example.com"], "a@host.example.com", False),
        (["10.0.0.1"], "a@10.0.0.1", True),
        (["10.0.0.1"], "a@10.0.0.2", False),
        (["::1"], "a@::1", True),
        (["0:0:0:0:0:0:0:1"], "a@::1", True),
        (["localhost"], "a@127.0.0.1", False),
    ],
)
def test_guarantee_4_names(sans: list[str], name: str, *, expected: bool) -> None:
    certificate = authority().issue(None, dns=sans).certificate().x509
    assert covers(certificate, NodeName.parse(name)) is expected


def test_guarantee_3_the_common_name_never_counts() -> None:
    issued = authority().issue(None, dns=["other.example"], common_name="h.example")
    certificate = issued.certificate().x509
    assert not covers(certificate, NodeName.parse("a@h.example"))
    assert "h.example" in describe(certificate)
    assert "other.example" in describe(certificate)
