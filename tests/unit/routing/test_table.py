"""Routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode import ConfigError, Route
from fastnode.routing import RouteTable


def test_heaviest_first_and_equals_in_order() -> None:
    table = RouteTable(
        [Route("a", "h1"), Route("@", "h2", weight=200), Route("b", "h3"),
         Route("a@", "h4"), Route("x", "h5", weight=999)]
    )  # fmt: skip
    assert [r.host for r in table.matching("ab@host")] == ["h2", "h1", "h3"]
    assert table.matching("zz") == ()


def test_match_is_a_search() -> None:
    table = RouteTable([Route("bill", "h1"), Route("^ill", "h2")])
    assert [r.host for r in table.matching("billing@x")] == ["h1"]


def test_the_same_match_twice() -> None:
    table = RouteTable([Route("a", "h1")])
    with pytest.raises(ConfigError, match="'a'") as caught:
        table.add(Route("a", "h2"))
    assert caught.value.hint
    assert [r.host for r in table.matching("a@b")] == ["h1"]


def test_remove() -> None:
    table = RouteTable([Route("a", "h1")])
    assert table.remove("a").host == "h1"
    assert len(table) == 0
    with pytest.raises(ConfigError, match="no route"):
        table.remove("a")


@pytest.mark.parametrize(
    "arguments",
    [("(", "h"), ("a", ""), ("a", "h", 0), ("a", "h", 65536), ("a", "h", -1),
     ("a", "h", "80"), (None, "h"), ("a", None)],
)  # fmt: skip
def test_routes_that_cannot_be(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        Route(*arguments)  # type: ignore[arg-type]


def test_the_default_port() -> None:
    assert Route("a", "h").port == 15000


@given(st.lists(st.integers(-5, 5), max_size=12))
def test_any_weights(weights: list[int]) -> None:
    routes = [
        Route(f"a{'?' * bool(i)}{'b?' * i}", f"h{i}", weight=weight)
        for i, weight in enumerate(weights)
    ]
    found = RouteTable(routes).matching("a")
    assert sorted(found, key=routes.index) == routes
    assert [r.weight for r in found] == sorted(weights, reverse=True)
