"""Which node names a certificate covers (guarantee 4)."""

from __future__ import annotations

import pytest

from fastnode.names import NodeName
from fastnode.tls.identity import covers, describe, describe_violation, forbidding
from helpers.constraints import encoded
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
        # Hosts are compared in one form, and the names before them as they are.
        (["fastnode://a@H.Example."], "a@h.example", True),
        (["fastnode://a@h.example"], "a@H.EXAMPLE.", True),
        (["fastnode://A@h.example"], "a@H.EXAMPLE.", False),
        (["fastnode://a@[::1]"], "a@::1", True),
        (["fastnode://a@0:0:0:0:0:0:0:1"], "a@[::1]", True),
        (["fastnode://a@h.example:15000"], "a@h.example", False),
        (["fastnode://a@h.example/"], "a@h.example", False),
        (["xn--bcher-kva.example"], "a@b\u00fccher.example", True),
        (["h.example."], "a@h.example", True),
        (["fe80::1"], "a@fe80::1%eth0", True),
        (["fe80::2"], "a@fe80::1%eth0", False),
    ],
)
def test_guarantee_4_names(sans: list[str], name: str, *, expected: bool) -> None:
    certificate = authority().issue(None, dns=sans).certificate().x509
    assert covers(certificate, NodeName.parse(name), ()) is expected


def test_guarantee_3_the_common_name_never_counts() -> None:
    issued = authority().issue(None, dns=["other.example"], common_name="h.example")
    certificate = issued.certificate().x509
    assert not covers(certificate, NodeName.parse("a@h.example"), ())
    assert "h.example" in describe(certificate)
    assert "other.example" in describe(certificate)


def test_guarantee_4_each_way_to_cover_a_name_obeys_the_chain() -> None:
    chain = [encoded("excluded;DNS:h.example", "excluded;IP:10.0.0.0/8")]
    for sans, name in (
        (["fastnode://a@h.example"], "a@h.example"),
        (["h.example"], "a@h.example"),
        (["h.example."], "a@h.example"),
        (["*.h.example"], "a@x.h.example"),
        (["10.0.0.1"], "a@10.0.0.1"),
        (["fastnode://a@10.0.0.1"], "a@10.0.0.1"),
    ):
        certificate = authority().issue(None, dns=sans).certificate().x509
        parsed = NodeName.parse(name)
        assert covers(certificate, parsed, ())
        assert not covers(certificate, parsed, chain)
        assert forbidding(certificate, parsed, ()) is None
        violation = forbidding(certificate, parsed, chain)
        assert violation is not None
        assert violation.authority == chain[0]
        assert "CN=team CA" in describe_violation(violation)


def test_one_way_that_is_allowed_is_enough() -> None:
    """URI constraints do not concern DNS SANs."""
    chain = [encoded("excluded;URI:h.example")]
    name = NodeName.parse("a@h.example")
    both = authority().issue(None, dns=[name.uri, "h.example"]).certificate().x509
    assert covers(both, name, chain)
    uri = authority().issue(None, dns=[name.uri]).certificate().x509
    assert not covers(uri, name, chain)


def test_a_name_that_no_san_covers_is_not_forbidden() -> None:
    certificate = authority().issue(None, dns=["other.example"]).certificate().x509
    chain = [encoded("excluded;DNS:h.example")]
    name = NodeName.parse("a@h.example")
    assert not covers(certificate, name, chain)
    assert forbidding(certificate, name, chain) is None
