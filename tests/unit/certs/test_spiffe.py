"""SPIFFE IDs, and the rule that judges peers by them."""

from __future__ import annotations

import re
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError, Peer, SpiffeId, SpiffeRule
from helpers.pki import authority

DOMAINS = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1)
SEGMENTS = st.text(string.ascii_letters + string.digits + "._-", min_size=1).filter(
    lambda text: text not in {".", ".."}
)
IDS = st.tuples(DOMAINS, st.lists(SEGMENTS, max_size=6)).map(
    lambda parts: "spiffe://" + "/".join([parts[0], *parts[1]])
)


def peer(*uris: str, name: str = "orders@10.0.0.5", verified: bool = True) -> Peer:
    cert = authority().issue(None, dns=[*uris, "x.example"]).certificate().x509
    return Peer(name, ("10.0.0.5", 1), cert, verified)


# --- IDs ------------------------------------------------------------------------------


@given(IDS)
def test_what_is_valid_comes_back_unchanged(text: str) -> None:
    parsed = SpiffeId.parse(text)
    assert str(parsed) == text
    assert SpiffeId(parsed.trust_domain, parsed.path) == parsed


@given(st.one_of(st.text(), st.text().map(lambda text: f"spiffe://{text}")))
def test_any_text_is_an_id_or_a_config_error(text: str) -> None:
    try:
        parsed = SpiffeId.parse(text)
    except ConfigError:
        return
    assert str(parsed) == text
    assert re.fullmatch(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*", text)


@given(IDS, st.sampled_from("?#:@%\\ \n\t\0é[]!$&'()*+,;=~"), st.data())
def test_no_foreign_character_anywhere(text: str, odd: str, data: Any) -> None:
    at = data.draw(st.integers(len("spiffe://"), len(text)))
    with pytest.raises(ConfigError):
        SpiffeId.parse(text[:at] + odd + text[at:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe:///path",
        "SPIFFE://a.example/b",
        "https://a.example/b",
        "a.example/b",
        "spiffe:/a.example/b",
        "spiffe://A.example/b",
        "spiffe://a.example/",
        "spiffe://a.example/b/",
        "spiffe://a.example//b",
        "spiffe://a.example/b//c",
        "spiffe://a.example/.",
        "spiffe://a.example/../b",
        "spiffe://a.example/b/./c",
        "spiffe://a.example:8443/b",
        "spiffe://user@a.example/b",
        "spiffe://a.example?b",
        "spiffe://a.example/b?c=d",
        "spiffe://a.example/b#c",
        "spiffe://a.example/%62",
        "spiffe://a.example/b\n",
        "spiffe://" + "a" * 256 + "/b",
        "spiffe://a.example/" + "b" * 2030,
    ],
)
def test_what_the_standard_forbids(text: str) -> None:
    with pytest.raises(ConfigError):
        SpiffeId.parse(text)


def test_parts_that_cannot_be() -> None:
    assert str(SpiffeId("a.example")) == "spiffe://a.example"
    for domain, path in (("a/b", ""), ("", "/b"), ("a", "b"), ("a", "/b/"), ("a", 7)):
        with pytest.raises(ConfigError):
            SpiffeId(domain, path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="str"):
        SpiffeId.parse(b"spiffe://a/b")  # type: ignore[arg-type]
    assert len(str(SpiffeId.parse("spiffe://a/" + "b" * 2037))) == 2048


# --- the rule -------------------------------------------------------------------------

ORDERS = "spiffe://prod.example/ns/shop/sa/orders"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (None, True),
        (r"/ns/shop/sa/orders", True),
        (r"/ns/[a-z]{2,8}/sa/{name}", True),
        (r"/.*", True),
        (r"(/[a-z]+){4}", True),
        (r"/ns/shop", False),
        (r"ns/shop/sa/orders", False),
        (r".*/sa", False),
        (r"/ns/shop/sa/{host}", False),
        (r"", False),
    ],
)
def test_paths(path: str | None, expected: bool) -> None:
    assert SpiffeRule("prod.example", path)(peer(ORDERS)) is expected


def test_the_node_name_is_taken_as_it_stands() -> None:
    rule = SpiffeRule("prod.example", r"/node/{host}/{name}")
    uri = "spiffe://prod.example/node/10.0.0.5/a.b"
    assert rule(peer(uri, name="a.b@10.0.0.5"))
    # The dots are dots, not any character.
    assert not rule(peer(uri, name="axb@10.0.0.5"))
    assert not rule(peer(uri.replace("10.0", "10x0"), name="a.b@10.0.0.5"))
    assert not rule(peer(uri.replace("a.b", "axb"), name="a.b@10.0.0.5"))


def test_whose_certificate_is_no_workload_identity() -> None:
    rule = SpiffeRule("prod.example")
    good = peer(ORDERS)
    assert rule(good) is True
    assert rule(peer(ORDERS, "fastnode://orders@10.0.0.5"))
    for other in (
        replace(good, verified=False),
        replace(good, certificate=None),
        peer(),
        peer("fastnode://orders@10.0.0.5"),
        peer(ORDERS, ORDERS + "2"),
        peer(ORDERS, "https://prod.example"),
        peer(ORDERS.replace("prod", "test")),
        peer(ORDERS.replace("prod.", "prod.example.")),
        peer("spiffe://prod.example"),
        peer(ORDERS + "/"),
        peer("SPIFFE://prod.example/ns/shop/sa/orders"),
        # A certificate without SANs, and that of an authority.
        replace(good, certificate=authority().x509),
    ):
        assert rule(other) is False


def test_an_authority_is_no_workload() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    ca = authority()
    for kind in ("ca", "usage"):
        builder = (
            x509.CertificateBuilder()
            .subject_name(ca.x509.subject)
            .issuer_name(ca.x509.subject)
            .serial_number(1)
            .not_valid_before(ca.x509.not_valid_before_utc)
            .not_valid_after(ca.x509.not_valid_after_utc)
            .public_key(ca.x509.public_key())
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ORDERS)]),
                critical=False,
            )
        )
        value: x509.ExtensionType = x509.BasicConstraints(ca=True, path_length=None)
        if kind == "usage":
            value = ca.x509.extensions.get_extension_for_class(x509.KeyUsage).value
        signed = builder.add_extension(value, critical=True)
        cert = signed.sign(ca._key, hashes.SHA256())
        shown = Peer("orders@10.0.0.5", ("10.0.0.5", 1), cert, True)
        assert not SpiffeRule("prod.example")(shown)


@pytest.mark.parametrize(
    ("domain", "path"),
    [
        ("spiffe://prod.example", None),
        ("Prod.example", None),
        ("", None),
        ("prod.example/ns", None),
        (None, None),
        ("prod.example", "/ns/("),
        ("prod.example", "/ns/[z-a]"),
        ("prod.example", 7),
    ],
)
def test_rules_that_cannot_be(domain: Any, path: Any) -> None:
    with pytest.raises(ConfigError):
        SpiffeRule(domain, path)


def test_a_pattern_that_is_none_for_this_name_refuses() -> None:
    rule = SpiffeRule("prod.example", r"/[a-{name}]+")
    assert rule(peer("spiffe://prod.example/b", name="z@10.0.0.5"))
    assert not rule(peer("spiffe://prod.example/b", name="A@10.0.0.5"))


@given(st.text(string.ascii_letters + string.digits + "_.-", min_size=1))
def test_no_name_is_a_pattern(name: str) -> None:
    rule = SpiffeRule("prod.example", r"/{name}")
    shown = replace(SHOWN, name=f"{name}@h")
    assert rule(shown) is (name == "orders")


SHOWN = peer("spiffe://prod.example/orders")
