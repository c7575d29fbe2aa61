"""Whatever an etcd answers, it is read or refused with `DiscoveryError`."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnode.discovery import DiscoveryError
from fastnode.discovery.etcd_gateway import (
    EtcdRefused,
    Range,
    _changes,
    _parsed,
    _refusal,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def changes(message: Any) -> dict[bytes, bytes | None]:
    return _parsed(_changes, json.dumps(message).encode(), "http://etcd")


def test_changes_are_read() -> None:
    events = [
        {"kv": {"key": encoded("a"), "value": encoded("1")}},
        {"type": "DELETE", "kv": {"key": encoded("b")}},
        {"kv": {"key": encoded("c")}},  # an empty value is left out
    ]
    found = changes({"result": {"header": {}, "events": events}})
    assert found == {b"a": b"1", b"b": None, b"c": b""}
    assert changes({"result": {"created": True}}) == {}


@pytest.mark.parametrize(
    "message",
    [
        {"error": {"message": "no leader", "grpc_code": 14}},
        {"result": {"canceled": True, "compact_revision": "7"}},
        {"result": []},
        {"result": {"events": {}}},
        {"result": {"events": [{}]}},
        {"result": {"events": [{"kv": {"key": "not base64"}}]}},
    ],
)
def test_the_end_of_a_stream_and_nonsense_are_refused(message: Any) -> None:
    with pytest.raises(DiscoveryError):
        changes(message)


@given(st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DiscoveryError):
        _parsed(_changes, data, "http://etcd")
    assert isinstance(_refusal("http://etcd", 500, data), EtcdRefused)


@given(st.dictionaries(st.sampled_from(["header", "kvs", "count"]), JSON), JSON)
def test_any_answer_is_read_or_refused(answer: dict[str, Any], result: Any) -> None:
    for parse in (
        lambda: _parsed(Range, answer),
        lambda: changes({"result": result}),
        lambda: changes({"result": {"events": [{"kv": result}]}}),
    ):
        with suppress(DiscoveryError):
            parse()


def test_a_range_is_read() -> None:
    found = Range(
        {
            "header": {"revision": "12"},
            "kvs": [{"key": encoded("a"), "value": encoded("1")}],
            "count": "1",
        }
    )
    assert (found.revision, found.count, found.values) == (12, 1, {b"a": b"1"})


@pytest.mark.parametrize(
    ("data", "said", "status"),
    [
        (b'{"error": "no lease", "message": "no lease", "code": 5}', "no lease", 5),
        (b'{"error": {"message": "down", "grpc_code": 14}}', "down", 14),
        (b"plain text\n", "plain text", 0),
        (b"", "status 500", 0),
    ],
)
def test_refusals_say_what_etcd_says(data: bytes, said: str, status: int) -> None:
    refused = _refusal("http://etcd", 500, data)
    assert refused.message == f"http://etcd refused: {said}"
    assert refused.status == status
    assert pickle.loads(pickle.dumps(refused)).status == status
    assert refused.code == "unavailable"
    assert refused.begun == "no"
