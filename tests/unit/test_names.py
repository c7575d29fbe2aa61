"""Node names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.names import NodeName, normal_host, verified_host


@pytest.mark.parametrize(
    "text",
    ["a@b", "orders@127.0.0.1", "or-ders.v2_x@host.example", "a@::1", "A@localhost"],
)
def test_good(text: str) -> None:
    name = NodeName.parse(text)
    assert str(name) == text
    assert f"{name.name}@{name.host}" == text
    assert name.uri == f"fastnode://{text}"


@pytest.mark.parametrize(
    "text",
    ["", "a", "@", "a@", "@b", "a b@c", "a@b c", "a@b@c", "-a@b", "a@-b", "a@b..c",
     "a@b\n", "a\n@b",
     "a/b@c", "a@" + "x" * 300, "x" * 600 + "@b", "\u00fc@b", "a@:::1"],
)  # fmt: skip
def test_bad(text: str) -> None:
    with pytest.raises(ConfigError):
        NodeName.parse(text)


def test_not_text() -> None:
    with pytest.raises(ConfigError, match="bytes"):
        NodeName.parse(b"a@b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("Host.Example", "host.example"),
        ("host.example.", "host.example"),
        ("LOCALHOST.", "localhost"),
        ("my_host-1", "my_host-1"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("B\u00dcCHER.Example.", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        # Other dots of IDNA.
        ("b\u00fccher\u3002example", "xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        # Digits of full width.
        ("\uff11\uff10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("FD00::A", "fd00::a"),
        ("[FE80::1%eth0]", "fe80::1%eth0"),
        ("x" * 63, "x" * 63),
        (".".join(["x" * 49] * 5), ".".join(["x" * 49] * 5)),
    ],
)
def test_guarantee_4_hosts_have_one_form(host: str, normal: str) -> None:
    assert normal_host(host) == normal
    assert normal_host(normal) == normal
    assert NodeName.parse(f"a@{host}") == NodeName("a", normal)
    assert str(NodeName.parse(f"a@{host}")) == f"a@{normal}"
    assert verified_host(host) == normal.partition("%")[0]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("x" * 64, "a label of a DNS name has at most 63 characters"),
        ("a." + "x" * 64, "a label of a DNS name has at most 63 characters"),
        ("\u00fc" * 64, "label"),
        (".".join(["x" * 50] * 5), "a DNS name has at most 253 characters"),
        ("host:15000", "the port belongs into a Route"),
        ("[::1]:15000", "the port belongs into a Route"),
        ("[10.0.0.1]", "no host"),
        ("[host]", "no host"),
        ("fe80::1%", "no host"),
        ("fe80::1%a b", "no host"),
        ("fe80::1%\n", "no host"),
        ("*.example", "no host"),
        ("a..b", "no host"),
        ("a..", "no host"),
        (".a", "no host"),
        (".", "no host"),
        ("", "empty"),
        ("\u3002", "label"),
        ("\ud800", "no host"),
    ],
)
def test_no_hosts(host: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normal_host(host)
    assert why in str(caught.value)
    assert caught.value.hint
    with pytest.raises(ConfigError):
        NodeName.parse(f"a@{host}")


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        name = NodeName.parse(text)
        assert str(name).isascii()
        assert NodeName.parse(str(name)) == name


@given(st.text(alphabet="aA.-1[]:%\u00fc\u3002", max_size=12))
def test_any_host_has_one_form_or_is_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        normal = normal_host(text)
        assert normal_host(normal) == normal
        assert normal == normal.lower()
