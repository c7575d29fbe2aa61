"""Names that may stand in a certificate, and those that may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import Certificate, ConfigError
from fastnode.certs.authority import Authority
from fastnode.certs.signing import check_certifiable, dns_name, ip_address


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Shop.Example.", "shop.example"),
        ("*.Example", "*.example"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
    ],
)
def test_dns_names(text: str, name: str) -> None:
    assert dns_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "bad name", "a..b", "-a", "a-", "*", "*.", "a.*.b", "a*b", "a/b",
        "a:1",
        "10.0.0.5", "10.0.0.300", "::1", "1", "https://a.b", "fastnode://a@b", "a\nb",
        "x" * 64, ".".join(["x" * 60] * 5), "\u00e9 b", "a@b",
    ],
)  # fmt: skip
def test_what_is_not_a_dns_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a DNS name") as caught:
        dns_name(text)
    assert caught.value.hint


@given(st.text(max_size=30))
def test_a_dns_name_has_one_form(text: str) -> None:
    try:
        name = dns_name(text)
    except ConfigError:
        return
    assert dns_name(name) == name
    assert name.isascii()
    assert name == name.lower()


@pytest.mark.parametrize("text", ["", "1.2", "10.0.0.300", "a.b", "fe80::1%eth0", "1"])
def test_what_is_not_an_ip_address(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ip_address(text)
    assert caught.value.hint


def test_ip_addresses() -> None:
    assert ip_address("fd00:0::5") == "fd00::5"


@pytest.mark.parametrize("host", ["localhost", "10.0.0.5", "[::1]", "*.a", "x://y"])
def test_hosts_of_certificates(host: str) -> None:
    check_certifiable(host)


def test_self_signed_certificates_have_names_that_peers_can_verify() -> None:
    with pytest.raises(ConfigError, match="'bad name' is not a DNS name"):
        Certificate.self_signed("org", hosts=["localhost", "bad name"])


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb", "a\x1b[2J", None, 5])
def test_names_of_authorities(name: str) -> None:
    with pytest.raises(ConfigError, match="the common name of an authority") as caught:
        Authority.create(name)
    assert "1 to 64 characters" in str(caught.value.hint)
    with pytest.raises(ConfigError):
        Authority.create().intermediate(name)
    Authority.create("x" * 64)
