"""Which instances belong to a service (guarantee 4)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.names import NodeName
from fastnode.node.membership import Membership, belongs
from helpers.constraints import encoded
from helpers.pki import authority

if TYPE_CHECKING:
    from cryptography import x509

BILLING = Membership.of("billing")


@cache
def shown(*sans: str) -> x509.Certificate:
    return authority().issue(None, dns=sans).certificate().x509


def judged(
    name: str, *sans: str, server_name: str | None = None, chain: tuple[bytes, ...] = ()
) -> str | None:
    wanted = Membership.of("billing", server_name)
    return belongs(shown(*sans), chain, NodeName.parse(name), wanted)


@pytest.mark.parametrize(
    ("sans", "name", "server_name", "member"),
    [
        (["fastnode://billing@10.0.0.1"], "billing@10.0.0.1", None, True),
        # Pods share one certificate, and each has an address of its own.
        (
            ["fastnode://billing@billing.prod", "10.0.0.1"],
            "billing@10.0.0.1",
            None,
            True,
        ),
        (["fastnode://billing@H.Example."], "billing@h.example", None, True),
        # The issue's own example: the host is the attacker's.
        (["evil.internal"], "billing@evil.internal", None, False),
        (["evil.internal"], "billing@evil.internal", "billing.prod", False),
        (["*.internal"], "billing@evil.internal", None, False),
        (["10.0.0.1"], "billing@10.0.0.1", None, False),
        # What the caller has fixed.
        (["billing.prod"], "billing@billing.prod", "billing.prod", True),
        (["billing.prod"], "billing@billing.prod", "Billing.PROD.", True),
        (["billing.prod", "10.0.0.1"], "billing@10.0.0.1", "billing.prod", True),
        (["*.svc.prod"], "billing@10.0.0.1", "billing.svc.prod", True),
        (["*.svc.prod"], "billing@10.0.0.1", "a.billing.svc.prod", False),
        (["10.0.0.9"], "billing@10.0.0.9", "10.0.0.9", True),
        (["other.prod"], "billing@other.prod", "billing.prod", False),
        # Another service, whatever the certificate says of billing.
        (["fastnode://billing@h.example"], "orders@h.example", None, False),
        (
            ["fastnode://orders@h.example", "h.example"],
            "billing@h.example",
            None,
            False,
        ),
        (["fastnode://Billing@h.example"], "billing@h.example", None, False),
        (["fastnode://billing2@h.example"], "billing@h.example", None, False),
        (["https://billing@h.example"], "billing@h.example", None, False),
        (["fastnode://billing@h.example/x"], "billing@h.example", None, False),
        (["fastnode://fastnode://billing@h"], "billing@h", None, False),
    ],
)
def test_guarantee_4_members(
    sans: list[str], name: str, server_name: str | None, *, member: bool
) -> None:
    reason = judged(name, *sans, server_name=server_name)
    assert (reason is None) is member, reason


def test_guarantee_4_nobody_without_a_verified_certificate_is_a_member() -> None:
    name = NodeName.parse("billing@h.example")
    assert "no certificate" in (belongs(None, (), name, BILLING) or "")


def test_guarantee_4_name_constraints_bind_members() -> None:
    chain = (encoded("excluded;DNS:h.example"),)
    uri = "fastnode://billing@h.example"
    assert judged("billing@10.0.0.1", uri) is None
    assert judged("billing@10.0.0.1", uri, chain=chain)
    assert judged("billing@10.0.0.1", "h.example", server_name="h.example") is None
    assert judged("billing@10.0.0.1", "h.example", server_name="h.example", chain=chain)
    # One of two ways that is allowed is enough.
    assert (
        judged("billing@10.0.0.1", uri, "x.prod", server_name="x.prod", chain=chain)
        is None
    )


HOSTS = st.sampled_from(["a.example", "b.example", "evil.internal", "10.0.0.1"])
SERVICES = st.sampled_from(["billing", "orders", "b"])
SANS = st.one_of(HOSTS, st.builds("fastnode://{}@{}".format, SERVICES, HOSTS))


@given(
    st.lists(SANS, min_size=1, max_size=3, unique=True).map(tuple),
    SERVICES,
    HOSTS,
    SERVICES,
    st.none() | HOSTS,
)
def test_guarantee_4_only_the_two_ways_make_a_member(
    sans: tuple[str, ...],
    name: str,
    host: str,
    service: str,
    server_name: str | None,
) -> None:
    wanted = Membership.of(service, server_name)
    reason = belongs(shown(*sans), (), NodeName.parse(f"{name}@{host}"), wanted)
    by_uri = any(san.startswith(f"fastnode://{service}@") for san in sans)
    expected = name == service and (by_uri or server_name in sans)
    assert (reason is None) is expected


@pytest.mark.parametrize("service", ["", "billing@h", "a b", None, b"billing", "ä"])
def test_services_that_are_no_name(service: str) -> None:
    with pytest.raises(ConfigError, match="service"):
        Membership.of(service)


@pytest.mark.parametrize("host", ["", "a b", 7, "h:15000"])
def test_server_names_that_are_no_host(host: str) -> None:
    with pytest.raises(ConfigError):
        Membership.of("billing", host)
