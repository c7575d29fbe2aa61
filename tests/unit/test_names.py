"""Node names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError
from fastnode.names import NodeName


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


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert str(NodeName.parse(text)) == text
