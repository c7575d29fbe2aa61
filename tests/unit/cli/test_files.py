"""Names of the files that `fastnode ca issue` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.cli.files import file_stem, files_of
from fastnode.names import NodeName

#: What Kubernetes takes as a key of a secret (`IsConfigMapKey`).
KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}")

#: At most one hyphen, so no host looks like an IPv6 address with hyphens.
LABEL = r"[a-z0-9]{1,8}(-[a-z0-9]{1,4})?"
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(rf"{LABEL}(\.{LABEL}){{0,3}}", fullmatch=True),
    st.ip_addresses(v=6).map(lambda address: f"{address.exploded}%eth0"),
)
NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
NODES = st.builds("{}@{}".format, NAMES, HOSTS).map(NodeName.parse)


@given(NODES)
def test_each_name_is_a_key_of_a_secret(node: NodeName) -> None:
    for path in files_of(Path("/nonexistent"), node):
        assert KEY.fullmatch(path.name)


@given(NODES, NODES)
def test_nodes_have_files_of_their_own(one: NodeName, other: NodeName) -> None:
    # No host here has an underscore, so the last one in a stem is the @.
    assert (file_stem(one) == file_stem(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("orders@10.0.0.5", "orders_10.0.0.5"),
        ("orders@[::1]", "orders_--1"),
        ("my_orders@Orders.Internal.", "my_orders_orders.internal"),
        ("o@fe80::1%eth0", "o_fe80--1-eth0"),
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert file_stem(NodeName.parse(name)) == stem


@pytest.mark.parametrize("left", ["a@h.pem", "a@h-key.pem"])
def test_files_of_earlier_versions_are_found(left: str, tmp_path: Path) -> None:
    node = NodeName.parse("a@h")
    (tmp_path / left).touch()
    assert [path.name for path in files_of(tmp_path, node)] == [
        "a@h.pem", "a@h-key.pem"
    ]  # fmt: skip
    (tmp_path / "a_h.pem").touch()
    assert [path.name for path in files_of(tmp_path, node)] == [
        "a_h.pem", "a_h-key.pem"
    ]  # fmt: skip
